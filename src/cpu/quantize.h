// The CPU half of include/samebits/quantize.h, where the formulas are. Called by src/core/quantize.cpp, which has
// checked shapes and dtypes. Any strides; `threads` as in cpu/gemm.h (0: all of the machine), never a source of bits.
#pragma once
#include <string_view>

#include "samebits/quantize.h"

namespace samebits::cpu {

void quantize_per_token(ConstView x, View q, float* scale, const float* upper_bound, int threads);
void quantize_static(ConstView x, const float* scale, View q, int threads);
void quantize_per_group(ConstView x, View q, const GroupScales& scales, int threads);
/// Throws what check_finite() does.
void quantize_weight(ConstView w, Granularity granularity, View q, float* scale, std::string_view what, int threads);
void dequantize(ConstView q, const Scales& scale, View out, int threads);

}  // namespace samebits::cpu
