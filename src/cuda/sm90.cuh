// What the words of sm90.def mean on Hopper.
#pragma once
#include "cuda/cutlass3.cuh"

namespace samebits::cuda::SAMEBITS_TABLE {

using cutlass::epilogue::TmaWarpSpecialized;
using cutlass::epilogue::TmaWarpSpecializedCooperative;

struct Basic {
  static constexpr bool kWaitsBeforeTrigger = true;
  template <bool kFastFp8>
  using Mainloop = cute::conditional_t<kFastFp8, cutlass::gemm::KernelTmaWarpSpecializedFP8FastAccum,
                                       cutlass::gemm::KernelTmaWarpSpecialized>;
  using Epilogue = TmaWarpSpecialized;
};
struct Pingpong {
  static constexpr bool kWaitsBeforeTrigger = false;
  template <bool kFastFp8>
  using Mainloop = cute::conditional_t<kFastFp8, cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum,
                                       cutlass::gemm::KernelTmaWarpSpecializedPingpong>;
  using Epilogue = TmaWarpSpecialized;
};
struct Cooperative {
  static constexpr bool kWaitsBeforeTrigger = true;
  template <bool kFastFp8>
  using Mainloop = cute::conditional_t<kFastFp8, cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum,
                                       cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
  using Epilogue = TmaWarpSpecializedCooperative;
};

}  // namespace samebits::cuda::SAMEBITS_TABLE

#define SAMEBITS_DEFINE_TILE(...) SAMEBITS_CUTLASS_TILE(Sm90, __VA_ARGS__)
