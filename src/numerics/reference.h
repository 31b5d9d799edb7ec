// Any Order, three loops. Slow and obvious: the definition that both backends are compared with.
#pragma once
#include "samebits/gemm.h"

namespace samebits {

/// The accumulator of output [row, channel]: a[row,:] . b[channel,:] in the Order, before the epilogue.
float reference_accumulate(const OrderSpec& spec, const ConstView& a, int64_t row, const ConstView& b, int64_t channel);

/// The accumulator of output [row, channel] of an Order with block scales: for each block of K its chain from +0, then
/// acc = fma(chain, scale_a * scale_b, acc).
float reference_accumulate_blocks(const GemmProblem& problem, int64_t row, int64_t channel);

/// The epilogue of one element, in FP32, every step rounded to nearest even: t = scale_a * acc, then scale_b * t or
/// fma(scale_b, t, bias). `bias` may be null.
float reference_epilogue(float acc, float scale_a, float scale_b, const float* bias);

/// The same where the scales are in the accumulator: acc, or acc + bias.
inline float reference_epilogue(float acc, const float* bias) { return bias ? acc + *bias : acc; }

/// The whole problem on one thread. Takes any strides. The caller has checked the shapes.
void reference_gemm(const GemmProblem& problem);

}  // namespace samebits
