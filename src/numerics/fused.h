// RMSNorm and SiLU * mul, one element after the other: the definition that both backends are compared with.
#pragma once
#include <cmath>

#include "samebits/fused.h"

namespace samebits {

/// The squares of h[0 .. count) added as a tree of adjacent pairs: (0,1), (2,3), ..., then the pairs of those sums, and
/// so on, the row filled up with zeros.
float reference_sum_of_squares(const float* h, int64_t count);

/// 1 / sqrt(sum / cols + epsilon), each of the four steps rounded to nearest.
inline float inverse_rms(float sum, int64_t cols, float epsilon) {
  return 1.0f / std::sqrt(sum / static_cast<float>(cols) + epsilon);
}

/// The whole matrix on one thread, any strides. The caller has checked the shapes.
void reference_rms_norm(const RmsNorm& norm, View y);
void reference_silu_mul(ConstView x, View y);

}  // namespace samebits
