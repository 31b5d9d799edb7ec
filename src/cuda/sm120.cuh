// What the CUTLASS words of sm120.def mean: mma.sync of kind f8f6f4 fed by TMA. Its Warps words are in mma.cuh.
#pragma once
#include "cuda/cutlass3.cuh"

namespace samebits::cuda::SAMEBITS_TABLE {

// Note: launched plainly, not as dependents of the previous kernel: nobody has seen these kernels wait for it.
struct Pingpong {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kFastFp8>
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
};
struct Cooperative {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kFastFp8>
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
};

}  // namespace samebits::cuda::SAMEBITS_TABLE

#define SAMEBITS_DEFINE_TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  static_assert(cluster_m == 1 && cluster_n == 1, "consumer Blackwell has no multicast between blocks");         \
  static_assert(samebits::spec(samebits::Order::k##order).promote_every == 0, "CUTLASS has no promotion here");  \
  SAMEBITS_CUTLASS_TILE(Sm120, name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out)
