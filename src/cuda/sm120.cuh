// What the CUTLASS words of sm120.def mean: mma.sync of kind f8f6f4 fed by TMA. Its Warps words are in mma.cuh.
#pragma once
#include "cuda/cutlass3.cuh"

namespace samebits::cuda::SAMEBITS_TABLE {

// Note: launched plainly, not as dependents of the previous kernel: nobody has seen these kernels wait for it.
struct Pingpong {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kPromoted>
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
};
struct Cooperative {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kPromoted>
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
};

}  // namespace samebits::cuda::SAMEBITS_TABLE

// One kernel and its symbol `kernel_<name>`, which tables.cpp declares from the same row.
#define SAMEBITS_DEFINE_TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out)    \
  namespace samebits::cuda::SAMEBITS_TABLE {                                                                        \
  static_assert(cluster_m == 1 && cluster_n == 1, "consumer Blackwell has no multicast between blocks");            \
  static_assert(spec(Order::k##order).promote_every == 0, "CUTLASS has no promotion here");                         \
  extern const TileKernel kernel_##name;                                                                            \
  const TileKernel kernel_##name =                                                                                  \
      Cutlass3Tile<cutlass::arch::Sm120, cute::Shape<cute::Int<tile_m>, cute::Int<tile_n>, cute::Int<tile_k>>,      \
                   cute::Shape<cute::Int<cluster_m>, cute::Int<cluster_n>, cute::_1>, schedule, Operands::operands, \
                   Order::k##order, OutKind::k##out>::kKernel;                                                      \
  }
