// What the words of sm100.def mean: tcgen05 by one SM or by a pair. The same table is built for sm_100 and sm_103.
#pragma once
#include "cuda/cutlass3.cuh"

namespace samebits::cuda::SAMEBITS_TABLE {

// Note: launched plainly, not as dependents of the previous kernel: nobody has seen these kernels wait for it.
struct OneSm {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kFastFp8>
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecialized1SmSm100;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized1Sm;
};
struct TwoSm {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kFastFp8>
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecialized2SmSm100;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized2Sm;
};

}  // namespace samebits::cuda::SAMEBITS_TABLE

#define SAMEBITS_DEFINE_TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  static_assert(samebits::spec(samebits::Order::k##order).promote_every == 0,                                    \
                "tcgen05 keeps its sums in tensor memory: no promotion");                                        \
  SAMEBITS_CUTLASS_TILE(Sm100, name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out)
