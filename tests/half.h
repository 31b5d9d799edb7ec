// 16-bit operands that stress different parts of a matrix unit. Used by the recorder and by the tests, so that what was
// recorded and what is tested are of one kind.
#pragma once
#include <algorithm>
#include <utility>

#include "bits.h"
#include "numerics/formats.h"

namespace samebits::testing {

/// Kinds of bf16 / fp16 data. NaN and infinity are a kind of their own.
enum class HalfData {
  kAllPatterns,  ///< any finite code
  kNormal,       ///< a few exponents around 1
  kSubnormal,    ///< subnormal and smallest normal codes against large ones
  kMostlyZero,   ///< zeros of both signs, seven of eight
  kCancelling,   ///< x and -x at random places of a row, small terms between them
  kWide,         ///< exponents over 40 places, around the bits that a step may drop
  kFewBits,      ///< single significand bits: every dropped, rounded or carried bit shows
  kTiny,         ///< sums that are FP32 subnormals, or below them (bf16), or the smallest products (fp16)
  kHuge,         ///< sums around the end of FP32 (bf16), or the largest products (fp16)
  kSpecial,      ///< NaN and infinity of both signs here and there, against numbers, zeros and each other
};
inline constexpr HalfData kAllHalfData[] = {
    HalfData::kAllPatterns, HalfData::kNormal,  HalfData::kSubnormal, HalfData::kMostlyZero, HalfData::kCancelling,
    HalfData::kWide,        HalfData::kFewBits, HalfData::kTiny,      HalfData::kHuge,       HalfData::kSpecial};

/// The kind that is closest to a kind of FP8 data.
constexpr HalfData half_data(Data kind) { return static_cast<HalfData>(kind); }
static_assert(half_data(Data::kCancelling) == HalfData::kCancelling && half_data(Data::kNormal) == HalfData::kNormal);

/// A code with the exponent (of 1.0: 0), clamped to what is finite, and random sign and fraction.
inline uint16_t half_code(Random& random, Dtype dtype, int exponent, bool few_bits = false) {
  const Format& f = format_of(dtype);
  const int field = std::clamp(exponent + f.bias, 0, (1 << f.exponent_bits) - 2);
  uint32_t fraction = random.below(1u << f.fraction_bits);
  if (few_bits) fraction = random.below(2) ? 0 : 1u << random.below(static_cast<uint32_t>(f.fraction_bits));
  return static_cast<uint16_t>(random.below(2) << 15 | static_cast<uint32_t>(field) << f.fraction_bits | fraction);
}

/// Operands a [m,k] and b [n,k] of one dtype, bf16 or fp16.
inline std::pair<Matrix, Matrix> half_operands(Random& random, HalfData kind, Dtype dtype, int64_t m, int64_t n,
                                               int64_t k) {
  const Format& f = format_of(dtype);
  const bool wide_range = dtype == Dtype::kBf16;
  const uint16_t infinity = static_cast<uint16_t>(((1 << f.exponent_bits) - 1) << f.fraction_bits);
  const auto between = [&](int low, int high) {
    return low + static_cast<int>(random.below(static_cast<uint32_t>(high - low + 1)));
  };
  const auto code = [&](bool is_a) -> uint16_t {
    switch (kind) {
      case HalfData::kAllPatterns: {
        const auto any = static_cast<uint16_t>(random.below(65536));
        return (any & infinity) == infinity ? static_cast<uint16_t>(any ^ (1u << f.fraction_bits)) : any;
      }
      case HalfData::kSubnormal:
        return is_a ? half_code(random, dtype, between(-f.bias, 3 - f.bias))
                    : half_code(random, dtype, between(f.bias - 6, f.bias));
      case HalfData::kMostlyZero:
        return random.below(8) ? static_cast<uint16_t>(random.below(2) << 15)
                               : half_code(random, dtype, between(-8, 8));
      case HalfData::kWide: return half_code(random, dtype, between(wide_range ? -20 : -14, wide_range ? 20 : 15));
      case HalfData::kFewBits: return half_code(random, dtype, between(-8, 8), true);
      case HalfData::kTiny:
        return wide_range ? half_code(random, dtype, between(-82, -60)) : half_code(random, dtype, between(-15, -10));
      case HalfData::kHuge:
        return wide_range ? half_code(random, dtype, between(59, 64)) : half_code(random, dtype, between(11, 15));
      default: return half_code(random, dtype, between(-3, 2));
    }
  };
  std::pair<Matrix, Matrix> operands(Matrix(dtype, m, k), Matrix(dtype, n, k));
  auto& [a, b] = operands;
  const auto fill = [&](Matrix& matrix, bool is_a) {
    for (int64_t i = 0; i < matrix.rows * k; ++i) matrix.as<uint16_t>()[i] = code(is_a);
  };
  fill(a, true);
  fill(b, false);
  const auto column = [&] { return static_cast<int64_t>(random.below(static_cast<uint32_t>(k))); };
  if (kind == HalfData::kCancelling) {  // b has one sign and few fractions, so that a decides what cancels
    for (int64_t i = 0; i < n * k; ++i)
      b.as<uint16_t>()[i] &= static_cast<uint16_t>(infinity | (1u << (f.fraction_bits - 1)));
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 1; c < k; ++c)
        if (random.below(4)) b.as<uint16_t>()[r * k + c] = b.as<uint16_t>()[r * k];
    for (int64_t r = 0; r < m; ++r)
      for (int64_t pair = 0; pair < (k + 7) / 8; ++pair) {
        const uint16_t large = half_code(random, dtype, between(4, wide_range ? 30 : 14));
        a.as<uint16_t>()[r * k + column()] = large;
        a.as<uint16_t>()[r * k + column()] = large ^ 0x8000;
      }
  }
  if (kind == HalfData::kSpecial) {
    const uint16_t specials[] = {
        infinity, static_cast<uint16_t>(infinity | 0x8000), static_cast<uint16_t>(infinity | 1), 0xffff, 0x0000,
        0x8000};
    const auto put = [&](Matrix& matrix, int64_t row, int64_t col) {
      matrix.as<uint16_t>()[row * k + col] = specials[random.below(6)];
    };
    for (int64_t r = 0; r < m; r += 2) put(a, r, column());
    for (int64_t r = 0; r < n; r += 3) put(b, r, column());
    for (int64_t r = 0; r < m; r += 4) {  // one special against another in the same place
      const int64_t c = column();
      put(a, r, c), put(b, r % n, c);
    }
  }
  return operands;
}

}  // namespace samebits::testing
