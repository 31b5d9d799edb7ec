// What the words of sm90.def mean on Hopper.
#pragma once
#include "cuda/cutlass3.cuh"

namespace samebits::cuda::sm90 {

using cutlass::epilogue::TmaWarpSpecialized;
using cutlass::epilogue::TmaWarpSpecializedCooperative;

struct Basic {
  static constexpr bool kWaitsBeforeTrigger = true;
  template <bool kPromoted>
  using Mainloop = cute::conditional_t<kPromoted, cutlass::gemm::KernelTmaWarpSpecialized,
                                       cutlass::gemm::KernelTmaWarpSpecializedFP8FastAccum>;
  using Epilogue = TmaWarpSpecialized;
};
struct Pingpong {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kPromoted>
  using Mainloop = cute::conditional_t<kPromoted, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                                       cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum>;
  using Epilogue = TmaWarpSpecialized;
};
struct Cooperative {
  static constexpr bool kWaitsBeforeTrigger = true;
  template <bool kPromoted>
  using Mainloop = cute::conditional_t<kPromoted, cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                                       cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum>;
  using Epilogue = TmaWarpSpecializedCooperative;
};

}  // namespace samebits::cuda::sm90

// One kernel and its symbol `kernel_<name>`, which tables.cpp declares from the same row.
#define SAMEBITS_DEFINE_TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out)    \
  namespace samebits::cuda::sm90 {                                                                                  \
  extern const TileKernel kernel_##name;                                                                            \
  const TileKernel kernel_##name =                                                                                  \
      Cutlass3Tile<cutlass::arch::Sm90, cute::Shape<cute::Int<tile_m>, cute::Int<tile_n>, cute::Int<tile_k>>,       \
                   cute::Shape<cute::Int<cluster_m>, cute::Int<cluster_n>, cute::_1>, schedule, Operands::operands, \
                   Order::k##order, OutKind::k##out>::kKernel;                                                      \
  }
