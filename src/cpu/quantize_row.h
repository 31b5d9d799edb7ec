// What quantize.cpp and its SIMD half share: the quantizers of one row in one SIMD target.
#pragma once
#include <cstdint>

#include "samebits/types.h"

namespace samebits::cpu {

/// What a row holds.
struct RowRange {
  float absmax;  ///< NaN ignored; 0 for an empty row
  bool finite;   ///< neither NaN nor infinity
};

/// The half of the quantizers that is compiled once per SIMD target.
struct RowQuantizers {
  RowRange (*measure)(const ConstView& x, int64_t row);
  void (*quantize)(const ConstView& x, int64_t row, float factor, bool multiply, const View& q);
  void (*dequantize)(const ConstView& q, int64_t row, const float* table, float scale, const View& out);
};

}  // namespace samebits::cpu
