// The CPU half of include/samebits/fused.h, where the formulas are. Called by src/core/fused.cpp, which has checked
// shapes and dtypes. Any strides; `threads` as in cpu/gemm.h (0: all of the machine), never a source of bits.
#pragma once
#include "samebits/fused.h"

namespace samebits::cpu {

void rms_norm(const RmsNorm& norm, View y, int threads);
void rms_norm_quantize(const RmsNorm& norm, View q, float* scale, const float* upper_bound, int threads);
void rms_norm_quantize_per_group(const RmsNorm& norm, View q, const GroupScales& scales, int threads);
void silu_mul(ConstView x, View y, int threads);
void silu_mul_quantize(ConstView x, View q, float* scale, const float* upper_bound, int threads);
void silu_mul_quantize_per_group(ConstView x, View q, const GroupScales& scales, int threads);

}  // namespace samebits::cpu
