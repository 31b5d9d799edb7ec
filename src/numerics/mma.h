// One step of a matrix unit, in integers: reads like docs/contract.md. Called by reference.cpp; SIMD twins are held to
// it.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "numerics/formats.h"
#include "samebits/order.h"

namespace samebits {

/// A finite operand as sign * significand * 2^(exponent - fraction_bits). A subnormal counts as the smallest exponent.
struct Operand {
  int sign;         ///< +1 or -1
  int significand;  ///< with the hidden bit; 0 for zero
  int exponent;
  bool special;  ///< NaN or infinity
  float value;
};

constexpr Operand unpack(const Format& format, uint32_t code) {
  const int f = format.fraction_bits;
  const int exponent = static_cast<int>(code >> f) & ((1 << format.exponent_bits) - 1);
  const int fraction = static_cast<int>(code) & ((1 << f) - 1);
  const float value = decode(format, code);
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7fffffff;
  return {code >> (format.exponent_bits + f) ? -1 : 1, exponent ? fraction + (1 << f) : fraction,
          (exponent ? exponent : 1) - format.bias, magnitude >= 0x7f800000, value};
}

/// acc + sum of a[i] * b[i] over one chunk, as the unit computes it. `a` and `b` hold `count` <= spec.chunk codes; the
/// missing ones count as zero. Formula: docs/contract.md, "One step".
inline float mma_step(const OrderSpec& spec, Dtype a_dtype, Dtype b_dtype, const uint16_t* a, const uint16_t* b,
                      int count, float acc) {
  constexpr int kMaxChunk = 32;
  const Format& fa = format_of(a_dtype);
  const Format& fb = format_of(b_dtype);
  const int fraction_bits = fa.fraction_bits + fb.fraction_bits;
  const uint32_t acc_bits = std::bit_cast<uint32_t>(acc);
  const float nan = std::bit_cast<float>(kNanF32);

  int exponents[kMaxChunk], significands[kMaxChunk], signs[kMaxChunk];
  bool plus_infinity = acc_bits == 0x7f800000, minus_infinity = acc_bits == 0xff800000;
  bool any = false;
  int largest = 0;
  const auto see = [&](int exponent) { largest = any ? std::max(largest, exponent) : exponent, any = true; };
  if (is_nan_bits(acc_bits)) return nan;
  for (int i = 0; i < count; ++i) {
    const Operand x = unpack(fa, a[i]), y = unpack(fb, b[i]);
    signs[i] = x.sign * y.sign;
    exponents[i] = x.exponent + y.exponent;
    significands[i] = x.significand * y.significand;
    if (x.special || y.special) {
      const float product = x.value * y.value;  // infinity, or NaN: 0 * infinity, NaN * anything
      if (is_nan_bits(std::bit_cast<uint32_t>(product))) return nan;
      (product > 0 ? plus_infinity : minus_infinity) = true;
    } else if (significands[i] != 0) {
      see(exponents[i]);
    }
  }
  if (plus_infinity && minus_infinity) return nan;
  if (plus_infinity || minus_infinity) return std::bit_cast<float>(plus_infinity ? 0x7f800000u : 0xff800000u);

  // As for an operand, an acc that is subnormal counts with the smallest exponent.
  const int acc_field = static_cast<int>((acc_bits >> 23) & 255), acc_exponent = std::max(acc_field, 1) - 127;
  const int64_t acc_significand = (acc_field ? 0x800000 : 0) | (acc_bits & 0x7fffff);
  if (acc_significand) see(acc_exponent);
  if (!any) return 0.0f;
  largest = std::max(largest, spec.least_exponent);

  // Every term as a whole number of 2^(largest - align_bits), truncated toward zero.
  const auto shift = [](int64_t magnitude, int left) {
    return left >= 0 ? magnitude << left : left < -62 ? 0 : magnitude >> -left;
  };
  int64_t sum = 0;
  for (int i = 0; i < count; ++i)
    if (significands[i])
      sum += signs[i] * shift(significands[i], spec.align_bits - fraction_bits - (largest - exponents[i]));
  const int64_t acc_term = shift(acc_significand, spec.align_bits - 23 - (largest - acc_exponent));
  sum += acc_bits >> 31 ? -acc_term : acc_term;

  // Truncate to result_bits below the leading bit, and to what FP32 holds: a multiple of 2^-149.
  if (sum == 0) return 0.0f;
  uint64_t magnitude = static_cast<uint64_t>(std::llabs(sum));
  const int unit = largest - spec.align_bits;  // the sum counts 2^unit
  const int lead = 63 - std::countl_zero(magnitude);
  const int drop = std::max(lead - spec.result_bits, -149 - unit);
  if (drop > 0) magnitude = drop > lead ? 0 : magnitude >> drop << drop;
  if (magnitude == 0) return 0.0f;
  const double value = std::ldexp(static_cast<double>(magnitude), unit);  // exact: at most 24 significant bits
  const float result = lead + unit > 127 ? std::bit_cast<float>(0x7f800000u) : static_cast<float>(value);
  return sum < 0 ? -result : result;
}

}  // namespace samebits
