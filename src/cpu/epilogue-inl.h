// The contract's epilogue for one row of a panel of output channels, once per Highway target. Included by panel-inl.h
// and half-inl.h.
#if defined(SAMEBITS_CPU_EPILOGUE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_EPILOGUE_INL_H_
#undef SAMEBITS_CPU_EPILOGUE_INL_H_
#else
#define SAMEBITS_CPU_EPILOGUE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "cpu/convert-inl.h"
#include "numerics/formats.h"
#include "samebits/gemm.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Scales and biases of channels [first_channel, first_channel + count), FloatLanes() places each.
HWY_INLINE void LoadChannels(const GemmProblem& problem, int64_t first_channel, int64_t count, float* scale,
                             float* bias) {
  for (float* start : {scale, bias}) std::fill_n(start, FloatLanes(), 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    scale[i] = problem.scale_b.of_row(first_channel + i);
    if (problem.bias) bias[i] = load(problem.bias.dtype, problem.bias.at(0, first_channel + i));
  }
}

// The epilogue of one row of a panel. `acc` holds the accumulators of its `count` channels. Absent scales are 1.
HWY_INLINE void FinishRow(const GemmProblem& problem, int64_t row, int64_t first_channel, int64_t count,
                          const float* scale, const float* bias, const float* acc) {
  const DFloat d;
  const VFloat t = hn::Mul(hn::Set(d, problem.scale_a.of_row(row)), hn::Load(d, acc));
  const VFloat scale_b = hn::Load(d, scale);
  const VFloat value = problem.bias ? FusedMulAdd(scale_b, t, hn::Load(d, bias)) : hn::Mul(scale_b, t);
  const View& out = problem.out;
  StoreCodes(Encode(out.dtype, value), static_cast<size_t>(count), size_of(out.dtype), out.at(row, first_channel),
             out.col_stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
