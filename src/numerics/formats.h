// Exact encode and decode of e4m3, e5m2, bf16 and fp16. constexpr, no SIMD, no libm: the definition everyone is held
// to.
#pragma once
#include <bit>
#include <cstdint>

#include "samebits/types.h"

namespace samebits {

/// A binary format narrower than FP32: 1 sign, `exponent_bits`, `fraction_bits`.
struct Format {
  int exponent_bits;
  int fraction_bits;
  int bias;
  bool has_infinity;  ///< false: e4m3fn, whose all-ones code is NaN and whose top exponent is otherwise finite
};
inline constexpr Format kFormatE4m3{4, 3, 7, false};
inline constexpr Format kFormatE5m2{5, 2, 15, true};
inline constexpr Format kFormatBf16{8, 7, 127, true};
inline constexpr Format kFormatF16{5, 10, 15, true};

/// The NaN that a GPU returns from FP32 arithmetic. Note: measured, docs/measured.md "NaN".
inline constexpr uint32_t kNanF32 = 0x7fffffff;

constexpr bool is_nan_bits(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }

/// The FP32 value of `code`. Exact; any NaN code gives the canonical NaN.
constexpr float decode(const Format& format, uint32_t code) {
  const int f = format.fraction_bits;
  const uint32_t sign = (code >> (format.exponent_bits + f)) & 1;
  const int exponent = static_cast<int>((code >> f) & ((1u << format.exponent_bits) - 1));
  const uint32_t fraction = code & ((1u << f) - 1);
  const int top = (1 << format.exponent_bits) - 1;
  if (exponent == top) {
    if (format.has_infinity) return std::bit_cast<float>(fraction ? kNanF32 : (sign << 31) | 0x7f800000u);
    if (fraction == (1u << f) - 1) return std::bit_cast<float>(kNanF32);
  }
  if (exponent == 0) {
    if (fraction == 0) return std::bit_cast<float>(sign << 31);
    if (format.exponent_bits == 8)
      return std::bit_cast<float>((sign << 31) | (fraction << (23 - f)));  // bf16 subnormal
    const int lead = 31 - std::countl_zero(fraction);                      // value = fraction * 2^(1 - bias - f)
    const uint32_t e = static_cast<uint32_t>(lead + 1 - format.bias - f + 127);
    return std::bit_cast<float>((sign << 31) | (e << 23) | ((fraction << (23 - lead)) & 0x7fffffu));
  }
  return std::bit_cast<float>((sign << 31) | (static_cast<uint32_t>(exponent - format.bias + 127) << 23) |
                              (fraction << (23 - f)));
}

/// Rounds `value` to nearest even. Subnormals are kept. Overflow gives infinity where the format has one, else NaN
/// (the quantizers clamp before they cast). NaN gives the all-ones positive code, as a GPU's cvt does.
constexpr uint32_t encode(const Format& format, float value) {
  const int f = format.fraction_bits;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 31;
  const uint32_t code_bits = static_cast<uint32_t>(format.exponent_bits + f);
  const uint32_t sign_code = sign << code_bits;
  const uint32_t nan_code = (1u << code_bits) - 1;
  const uint32_t infinity_code = ((1u << format.exponent_bits) - 1) << f;
  if (is_nan_bits(bits)) return nan_code;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude == 0x7f800000) return format.has_infinity ? sign_code | infinity_code : nan_code;
  const int exponent = magnitude >> 23 ? static_cast<int>(magnitude >> 23) - 127 : -126;
  const uint64_t significand =
      (magnitude >> 23 ? 0x800000u : 0u) | (magnitude & 0x7fffff);  // value = significand * 2^(exponent-23)
  // Units of the result's last place: 2^(max(exponent, 1 - bias) - f).
  const int result_exponent = exponent > 1 - format.bias ? exponent : 1 - format.bias;
  const int drop = 23 - f + (result_exponent - exponent);  // bits below the last place
  uint64_t kept = drop > 40 ? 0 : significand >> drop;
  if (drop > 0 && drop <= 40) {
    const uint64_t rest = significand & ((uint64_t{1} << drop) - 1), half = uint64_t{1} << (drop - 1);
    if (rest > half || (rest == half && (kept & 1))) ++kept;
  }
  // kept < 2^f: subnormal. A carry out of the significand moves into the exponent field by itself.
  const uint64_t code =
      kept < (uint64_t{1} << f) ? kept : (static_cast<uint64_t>(result_exponent + format.bias - 1) << f) + kept;
  if (format.has_infinity && code >= infinity_code) return sign_code | infinity_code;
  if (!format.has_infinity && code >= nan_code) return nan_code;
  return sign_code | static_cast<uint32_t>(code);
}

/// The format of a dtype narrower than FP32.
constexpr const Format& format_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kE4m3: return kFormatE4m3;
    case Dtype::kE5m2: return kFormatE5m2;
    case Dtype::kBf16: return kFormatBf16;
    default: return kFormatF16;
  }
}

/// Reads one element of any dtype as FP32. Exact.
inline float load(Dtype dtype, const void* p) {
  switch (size_of(dtype)) {
    case 1: return decode(format_of(dtype), *static_cast<const uint8_t*>(p));
    case 2: return decode(format_of(dtype), *static_cast<const uint16_t*>(p));
    default: return *static_cast<const float*>(p);
  }
}

/// Writes `value` rounded to nearest even; a NaN is written as the canonical one of the dtype.
inline void store(Dtype dtype, void* p, float value) {
  const bool nan = is_nan_bits(std::bit_cast<uint32_t>(value));
  switch (size_of(dtype)) {
    case 1: *static_cast<uint8_t*>(p) = static_cast<uint8_t>(encode(format_of(dtype), value)); break;
    case 2: *static_cast<uint16_t*>(p) = static_cast<uint16_t>(encode(format_of(dtype), value)); break;
    default: *static_cast<float*>(p) = nan ? std::bit_cast<float>(kNanF32) : value;
  }
}

/// Distance of two codes of one dtype in units of the last place, across zero.
constexpr int64_t ulps(Dtype dtype, uint32_t x, uint32_t y) {
  const uint32_t sign = 1u << (8 * size_of(dtype) - 1);
  const auto place = [&](uint32_t c) {
    return c & sign ? -static_cast<int64_t>(c & (sign - 1)) : static_cast<int64_t>(c);
  };
  const int64_t distance = place(x) - place(y);
  return distance < 0 ? -distance : distance;
}

}  // namespace samebits
