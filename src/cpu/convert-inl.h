// Vector twins of numerics/formats.h: FP32 lanes to codes, rounded to nearest even, and codes to FP32 lanes. Included
// by gemm.cpp and quantize.cpp, once per Highway target. Codes lie in the low bits of 32-bit lanes.
#if defined(SAMEBITS_CPU_CONVERT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_CONVERT_INL_H_
#undef SAMEBITS_CPU_CONVERT_INL_H_
#else
#define SAMEBITS_CPU_CONVERT_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "numerics/formats.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DFloat = hn::ScalableTag<float>;
using DBits = hn::RebindToUnsigned<DFloat>;
using DInt = hn::RebindToSigned<DFloat>;
using VFloat = hn::Vec<DFloat>;
using VBits = hn::Vec<DBits>;

HWY_INLINE size_t FloatLanes() { return hn::Lanes(DFloat()); }
HWY_INLINE VBits Bits(VFloat v) { return hn::BitCast(DBits(), v); }
HWY_INLINE VFloat Float(VBits v) { return hn::BitCast(DFloat(), v); }
HWY_INLINE VBits Magnitude(VFloat v) { return hn::And(Bits(v), hn::Set(DBits(), 0x7fffffff)); }

// yes where x < limit, no elsewhere; magnitudes are below 2^31, so a signed comparison serves.
HWY_INLINE VBits WhereBelow(VBits x, uint32_t limit, VBits yes, VBits no) {
  const DInt d;
  const auto mask = hn::Lt(hn::BitCast(d, x), hn::Set(d, static_cast<int32_t>(limit)));
  return hn::BitCast(DBits(), hn::IfThenElse(mask, hn::BitCast(d, yes), hn::BitCast(d, no)));
}

// bits >> kDrop, rounded to nearest even.
template <int kDrop>
HWY_INLINE VBits RoundOff(VBits bits) {
  const DBits d;
  const auto even = hn::And(hn::ShiftRight<kDrop>(bits), hn::Set(d, 1));
  return hn::ShiftRight<kDrop>(hn::Add(hn::Add(bits, even), hn::Set(d, (1u << (kDrop - 1)) - 1)));
}

// Sign-less code of a finite magnitude that a format of kExponent and kFraction bits can hold. A subnormal result is
// the FP32 sum with a power of two whose last place is the format's: the FP32 adder rounds it to nearest even.
template <int kExponent, int kFraction>
HWY_INLINE VBits EncodeSmall(VBits magnitude) {
  const DBits d;
  constexpr uint32_t kBias = (1u << (kExponent - 1)) - 1, kDrop = 23 - kFraction;
  constexpr uint32_t kSmallestNormal = (128 - kBias) << 23;
  constexpr uint32_t kMagic = (128 - kBias + kDrop) << 23;
  const auto normal = hn::Sub(RoundOff<kDrop>(magnitude), hn::Set(d, (127 - kBias) << kFraction));
  const auto magic = hn::Set(d, kMagic);
  const auto subnormal = hn::Sub(Bits(hn::Add(Float(magnitude), Float(magic))), magic);
  return WhereBelow(magnitude, kSmallestNormal, subnormal, normal);
}

HWY_INLINE VBits EncodeBf16(VFloat v) {
  return WhereBelow(Magnitude(v), 0x7f800001, RoundOff<16>(Bits(v)), hn::Set(DBits(), 0x7fff));
}

HWY_INLINE VBits EncodeF16(VFloat v) {
  const DBits d;
  const auto magnitude = Magnitude(v);
  const auto sign = hn::And(hn::ShiftRight<16>(Bits(v)), hn::Set(d, 0x8000));
  // From 65520 = 0x477ff000, half an ulp above the largest finite value, up: infinity.
  const auto code = WhereBelow(magnitude, 0x477ff000, EncodeSmall<5, 10>(magnitude), hn::Set(d, 0x7c00));
  return WhereBelow(magnitude, 0x7f800001, hn::Or(sign, code), hn::Set(d, 0x7fff));
}

// |v| <= 448 or NaN.
HWY_INLINE VBits EncodeE4m3(VFloat v) {
  const DBits d;
  const auto magnitude = Magnitude(v);
  const auto sign = hn::And(hn::ShiftRight<24>(Bits(v)), hn::Set(d, 0x80));
  return WhereBelow(magnitude, 0x7f800001, hn::Or(sign, EncodeSmall<4, 3>(magnitude)), hn::Set(d, 0x7f));
}

HWY_INLINE VBits EncodeF32(VFloat v) {
  return WhereBelow(Magnitude(v), 0x7f800001, Bits(v), hn::Set(DBits(), kNanF32));
}

// The bits that numerics' store() writes; `out` is not e5m2, and |v| <= 448 for e4m3.
HWY_INLINE VBits Encode(Dtype out, VFloat v) {
  switch (out) {
    case Dtype::kBf16: return EncodeBf16(v);
    case Dtype::kF16: return EncodeF16(v);
    case Dtype::kE4m3: return EncodeE4m3(v);
    default: return EncodeF32(v);
  }
}

HWY_INLINE VFloat DecodeBf16(VBits code) { return Float(hn::ShiftLeft<16>(code)); }

// NaN stays a NaN, not the canonical one.
HWY_INLINE VFloat DecodeF16(VBits code) {
  const DBits d;
  const auto magnitude = hn::And(code, hn::Set(d, 0x7fff));
  const auto sign = hn::ShiftLeft<16>(hn::And(code, hn::Set(d, 0x8000)));
  const auto rebias = hn::Set(d, 112u << 23);
  const auto normal = hn::Add(hn::ShiftLeft<13>(magnitude), rebias);
  const auto subnormal =
      Bits(hn::Mul(hn::ConvertTo(DFloat(), hn::BitCast(DInt(), magnitude)), hn::Set(DFloat(), 0x1p-24f)));
  const auto finite = WhereBelow(magnitude, 0x0400, subnormal, normal);
  return Float(hn::Or(sign, WhereBelow(magnitude, 0x7c00, finite, hn::Add(normal, rebias))));
}

// fma(x, y, z) rounded once on every target.
HWY_INLINE VFloat FusedMulAdd(VFloat x, VFloat y, VFloat z) {
#if HWY_NATIVE_FMA
  return hn::MulAdd(x, y, z);
#else
  const DFloat d;
  HWY_ALIGN float xs[HWY_MAX_BYTES / 4], ys[HWY_MAX_BYTES / 4], zs[HWY_MAX_BYTES / 4];
  hn::Store(x, d, xs), hn::Store(y, d, ys), hn::Store(z, d, zs);
  for (size_t i = 0; i < hn::Lanes(d); ++i) zs[i] = std::fma(xs[i], ys[i], zs[i]);
  return hn::Load(d, zs);
#endif
}

// Writes the codes of `count` <= FloatLanes() lanes to element p, p + stride, ... of a dtype of `size` bytes.
HWY_INLINE void StoreCodes(VBits codes, size_t count, size_t size, void* p, int64_t stride) {
  HWY_ALIGN uint32_t buffer[HWY_MAX_BYTES / 4] = {};
  hn::Store(codes, DBits(), buffer);
  const auto write = [&](auto code) HWY_ATTR {
    std::byte* out = static_cast<std::byte*>(p);
    for (size_t i = 0; i < count; ++i, out += stride * static_cast<int64_t>(sizeof code)) {
      code = static_cast<decltype(code)>(buffer[i]);
      std::memcpy(out, &code, sizeof code);
    }
  };
  switch (size) {
    case 1: write(uint8_t{}); break;
    case 2: write(uint16_t{}); break;
    default: write(uint32_t{}); break;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
