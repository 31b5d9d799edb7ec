// What gemm.cpp and the SIMD half of the 16-bit Orders share: how packed rows lie in memory, and the functions of one
// SIMD target. The FP8 Orders have chain.h.
#pragma once
#include <bit>
#include <cstdint>
#include <vector>

#include "numerics/formats.h"
#include "samebits/gemm.h"

namespace samebits::cpu {

/// Elements of K that are packed and multiplied at a time, so that a packed panel stays near the core.
inline constexpr int64_t kHalfBlockK = 128;
/// Rows of `a` that are packed at a time: 16 bytes an element.
inline constexpr int64_t kHalfBlockM = 64;

/// An element as a step uses it: its value, and 2^(its exponent), 0 for a zero. A subnormal of a's dtype counts with
/// the smallest exponent; an e4m3 weight counts as what it is widened to. Double holds both, and the product of two
/// exactly.
struct HalfElement {
  double value = 0, power = 0;
  bool special = false;  ///< NaN or infinity: the output is computed by the reference instead
};

/// 2^(smallest normal exponent) of bf16 or fp16, as FP32 bits.
constexpr uint32_t smallest_power(Dtype a_dtype) { return static_cast<uint32_t>(128 - format_of(a_dtype).bias) << 23; }

inline HalfElement half_element(float value, uint32_t smallest) {
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7fffffff, exponent = magnitude & 0x7f800000;
  if (exponent == 0x7f800000) return {0, 0, true};
  if (magnitude == 0) return {};
  return {value, std::bit_cast<float>(exponent > smallest ? exponent : smallest), false};
}

/// Rows [first, first + count) of `a`, packed. K is filled up with zeros to whole steps. Of each step a row has the
/// `chunk` values, then the `chunk` powers.
struct PackedHalf {
  int64_t first = 0, count = 0;
  int64_t row_doubles = 0;  ///< from one row to the next
  std::vector<double> elements;
  std::vector<uint8_t> special;  ///< one flag per row: the row holds a NaN or an infinity
};

/// The part that is compiled once per SIMD target.
struct HalfBackend {
  int64_t lanes;         ///< output channels in a panel
  size_t scratch_bytes;  ///< for run_panel, 64-byte aligned
  /// All rows of `a` against channels [first_channel, first_channel + lanes) of problem.b, epilogue included.
  void (*run_panel)(const GemmProblem& problem, const PackedHalf& a, int64_t first_channel, void* scratch);
};

}  // namespace samebits::cpu
