// What fused.cpp and its SIMD half share: the producers of one row in one SIMD target.
#pragma once
#include <cstdint>

#include "samebits/fused.h"

namespace samebits::cpu {

/// Floats past the end of a row that the SIMD half may read and write in a buffer.
inline constexpr int64_t kRowSlack = 2 * 64;

/// The half of fused.cpp that is compiled once per SIMD target. Buffers have kRowSlack floats more than the row; y
/// comes out as FP32 values that the dtype of x holds exactly.
struct RowProducers {
  /// y = h: what is normalized, also written to norm.residual_out; squares = its squares.
  void (*add_residual)(const RmsNorm& norm, int64_t row, float* y, float* squares);
  /// The tree sum of squares[0 .. count), which is overwritten.
  float (*sum)(float* squares, int64_t count);
  /// y = cast(cast(y * inverse) * weight).
  void (*scale)(const RmsNorm& norm, float inverse, float* y);
  void (*silu_mul)(const ConstView& x, int64_t row, float* y);
  /// Writes y, which the dtype of `out` holds exactly.
  void (*store)(const float* y, const View& out, int64_t row);
};

}  // namespace samebits::cpu
