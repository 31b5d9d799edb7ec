// What a row of a table launches: an FP8 Order's one kernel, or that of a 16-bit Order for the dtype of the tokens.
// Called by the SAMEBITS_DEFINE_TILE of mma.cuh, ring.cuh and cutlass3.cuh.
#pragma once
#include "cuda/tile.h"

namespace samebits::cuda {

/// Row: kOrder, kWeightOnly and Kernel<dtype of the tokens, dtype of the weight>, which has launch() and kShared, the
/// shared memory that a block cannot do without.
template <class Row>
constexpr TileKernel kernels_by_dtype() {
  if constexpr (spec(Row::kOrder).operands == Operands::kFp8) {
    using Fp8 = typename Row::template Kernel<Dtype::kE4m3, Dtype::kE4m3>;
    return {Fp8::kShared, &Fp8::launch};
  } else {
    using Bf16 = typename Row::template Kernel<Dtype::kBf16, Row::kWeightOnly ? Dtype::kE4m3 : Dtype::kBf16>;
    using Fp16 = typename Row::template Kernel<Dtype::kF16, Row::kWeightOnly ? Dtype::kE4m3 : Dtype::kF16>;
    static_assert(Bf16::kShared == Fp16::kShared);
    return {Bf16::kShared, [](const GemmProblem& problem, const Launch& launch) {
              problem.a.dtype == Dtype::kBf16 ? Bf16::launch(problem, launch) : Fp16::launch(problem, launch);
            }};
  }
}

}  // namespace samebits::cuda
