// The chain over K in SIMD lanes, once per Highway target: advances accumulators with the bits of
// numerics/mma.h. Included by panel-inl.h.
//
// A 32-bit lane is one output channel. Four elements of K (a quad) take five 32-bit words of each operand:
//   exponents    4 bytes, biased so that a product's sum has FP32's bias (127); 0 for a zero operand
//   significands 2 words of 2 x 16 bits: elements 0 and 2, elements 1 and 3; those of `a` shifted to the align position
//   signs        2 words of 2 x 16 bits: {0, -2} in `a`, {1, -1} in `b`, so that one xor gives the product's sign
// The order of elements inside a step is free because its sum is exact.
#if defined(SAMEBITS_CPU_CHAIN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_CHAIN_INL_H_
#undef SAMEBITS_CPU_CHAIN_INL_H_
#else
#define SAMEBITS_CPU_CHAIN_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "cpu/chain.h"
#include "cpu/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How a significand product is shifted right by a count of each 16-bit lane. AVX-512 and NEON shift; the older x86
// targets multiply by a power of two and keep the high half, which needs the product one bit further left.
#undef SAMEBITS_SHIFT_BY_MULTIPLY
#if HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2
#define SAMEBITS_SHIFT_BY_MULTIPLY 1
#else
#define SAMEBITS_SHIFT_BY_MULTIPLY 0
#endif

using D32 = hn::ScalableTag<int32_t>;
using V32 = hn::Vec<D32>;

// Rows of `a` that share the loads of a panel: four sums and four exponents leave registers for the panel's five words.
constexpr int kRowsAtOnce = 4;

HWY_INLINE int64_t ChainLanes() { return static_cast<int64_t>(hn::Lanes(D32())); }

// Whether a chain is added to its total after step s. With block scales also the short one at the end of K, for adding
// it later as it is would need its scale.
HWY_INLINE bool EndsChain(const ChainConstants& c, const float* scales, int64_t s, int64_t steps) {
  return c.promote_steps && ((s + 1) % c.promote_steps == 0 || (scales && s + 1 == steps));
}

#if HWY_TARGET == HWY_SCALAR

// One lane: plain integers.
template <int kQuads>
HWY_INLINE float Step(const int32_t* HWY_RESTRICT a, const int32_t* HWY_RESTRICT b, const ChainConstants& c,
                      float acc) {
  const auto byte = [](const int32_t* words, int i) { return static_cast<int>(words[0] >> (8 * i) & 255); };
  const auto half = [](const int32_t* words, int i) {  // element i of the two words of an array
    return static_cast<int>(static_cast<int16_t>(words[i & 1] >> (16 * (i >> 1))));
  };
  int largest = std::max<int>(kLowestExponent, std::bit_cast<uint32_t>(acc) >> 23 & 255);
  for (int q = 0; q < 5 * kQuads; q += 5)
    for (int i = 0; i < 4; ++i) largest = std::max(largest, byte(a + q, i) + byte(b + q, i));
  int sum = static_cast<int>(acc * std::bit_cast<float>((c.align_bits + 254 - largest) << 23));
  for (int q = 0; q < 5 * kQuads; q += 5)
    for (int i = 0; i < 4; ++i) {
      const int product = half(a + q + 1, i) * half(b + q + 1, i);
      const int count = std::min(15, largest - byte(a + q, i) - byte(b + q, i));
      sum += (product >> count) * (half(a + q + 3, i) ^ half(b + q + 3, i));
    }
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(sum)) & c.result_mask;
  return std::bit_cast<float>(bits) * std::bit_cast<float>((largest - c.align_bits) << 23);
}

template <int kRows, int kQuads>
HWY_INLINE void AdvanceRows(const int32_t* HWY_RESTRICT a, int64_t a_stride, const int32_t* HWY_RESTRICT panel,
                            int64_t steps, const ChainConstants& c, const float* HWY_RESTRICT scales,
                            float* HWY_RESTRICT acc, float* HWY_RESTRICT total) {
  for (int r = 0; r < kRows; ++r)
    for (int64_t s = 0; s < steps; ++s) {
      acc[r] = Step<kQuads>(a + r * a_stride + s * 5 * kQuads, panel + s * 5 * kQuads, c, acc[r]);
      if (!EndsChain(c, scales, s, steps)) continue;
      total[r] =
          scales ? std::fma(acc[r], scales[r * kScalesOfBlock + s / c.promote_steps], total[r]) : total[r] + acc[r];
      acc[r] = 0.0f;
    }
}

#else  // HWY_TARGET != HWY_SCALAR

using D16 = hn::Repartition<int16_t, D32>;
using DU16 = hn::Repartition<uint16_t, D32>;
using DU8 = hn::Repartition<uint8_t, D32>;
using DF = hn::Repartition<float, D32>;
using V16 = hn::Vec<D16>;
using VU8 = hn::Vec<DU8>;
using VF = hn::Vec<DF>;

// Shift counts of elements 0 and 2 (even bytes) and 1 and 3 (odd bytes), ready for ShiftProducts.
HWY_INLINE void SplitCounts(VU8 counts, V16& even, V16& odd) {
  const DU16 du16;
#if SAMEBITS_SHIFT_BY_MULTIPLY
  // 2^(15 - count) by bytes; a count of 15 or more leaves nothing of a product.
  alignas(16) static constexpr uint8_t kHigh[16] = {128, 64, 32, 16, 8, 4, 2, 1};
  alignas(16) static constexpr uint8_t kLow[16] = {0, 0, 0, 0, 0, 0, 0, 0, 128, 64, 32, 16, 8, 4, 2, 1};
  counts = hn::Min(counts, hn::Set(DU8(), 15));
  const auto low = hn::BitCast(du16, hn::TableLookupBytes(hn::LoadDup128(DU8(), kLow), counts));
  const auto high = hn::BitCast(du16, hn::TableLookupBytes(hn::LoadDup128(DU8(), kHigh), counts));
  const auto low_mask = hn::Set(du16, 0x00ff);
  even = hn::BitCast(D16(), hn::Or(hn::And(low, low_mask), hn::ShiftLeft<8>(high)));
  odd = hn::BitCast(D16(), hn::Or(hn::ShiftRight<8>(low), hn::AndNot(low_mask, high)));
#else
#if HWY_TARGET > HWY_AVX3 || !HWY_ARCH_X86  // x86 shifts give 0 from 16 up; elsewhere that is not promised
  counts = hn::Min(counts, hn::Set(DU8(), 15));
#endif
  const auto words = hn::BitCast(du16, counts);
  even = hn::BitCast(D16(), hn::And(words, hn::Set(du16, 0x00ff)));
  odd = hn::BitCast(D16(), hn::ShiftRight<8>(words));
#endif
}

HWY_INLINE V16 ShiftProducts(V16 products, V16 counts) {
  const DU16 du16;
#if SAMEBITS_SHIFT_BY_MULTIPLY
  return hn::BitCast(D16(), hn::MulHigh(hn::BitCast(du16, products), hn::BitCast(du16, counts)));
#else
  return hn::BitCast(D16(), hn::Shr(hn::BitCast(du16, products), hn::BitCast(du16, counts)));
#endif
}

// sum + x[2i] * y[2i] + x[2i+1] * y[2i+1]. `rest` takes what the target cannot add in place.
HWY_INLINE V32 MultiplyAccumulate(V16 x, V16 y, V32 sum, V32& rest) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3_DL && !HWY_COMPILER_MSVC
  // Note: Highway 1.0.3 has no vpdpwssd; its target string lacks avx512vnni, so the intrinsic does not compile either.
  (void)rest;
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(x.raw), "v"(y.raw));
  return sum;
#else
  return hn::ReorderWidenMulAccumulate(D32(), x, y, sum, rest);
#endif
}

template <int kRows, int kQuads>
HWY_INLINE void AdvanceRows(const int32_t* HWY_RESTRICT a, int64_t a_stride, const int32_t* HWY_RESTRICT panel,
                            int64_t steps, const ChainConstants& c, const float* HWY_RESTRICT scales,
                            float* HWY_RESTRICT acc, float* HWY_RESTRICT total) {
  const D32 d32;
  const D16 d16;
  const DU8 du8;
  const DF df;
  const int64_t lanes = ChainLanes();
  const auto align = hn::Set(d32, c.align_bits);
  const auto result_mask = hn::Set(d32, static_cast<int32_t>(c.result_mask));
  V32 chain[kRows];  // FP32 bits
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) chain[r] = hn::BitCast(d32, hn::LoadU(df, acc + r * lanes));

  for (int64_t s = 0; s < steps; ++s) {
    V32 sum[kRows], rest[kRows];
    VU8 largest[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      // The largest exponent: of the products by byte, with the accumulator's in byte 0, then across the lane's bytes.
      VU8 e = hn::Set(du8, kLowestExponent);
#pragma GCC unroll 8
      for (int q = 0; q < kQuads; ++q)
        e = hn::Max(e, hn::Add(hn::BitCast(du8, hn::Load(d32, panel + 5 * q * lanes)),
                               hn::BitCast(du8, hn::Set(d32, a[r * a_stride + 5 * q]))));
      e = hn::Max(e, hn::BitCast(du8, hn::And(hn::ShiftRight<23>(chain[r]), hn::Set(d32, 255))));
      e = hn::Max(e, hn::BitCast(du8, hn::RotateRight<16>(hn::BitCast(hn::RebindToUnsigned<D32>(), e))));
      e = hn::Max(e, hn::BitCast(du8, hn::RotateRight<8>(hn::BitCast(hn::RebindToUnsigned<D32>(), e))));
      largest[r] = e;
      const auto e32 = hn::BitCast(d32, hn::ShiftRight<24>(hn::BitCast(hn::RebindToUnsigned<D32>(), e)));
      const auto scale = hn::BitCast(df, hn::ShiftLeft<23>(hn::Sub(hn::Add(align, hn::Set(d32, 254)), e32)));
      sum[r] = hn::ConvertTo(d32, hn::Mul(hn::BitCast(df, chain[r]), scale));
      rest[r] = hn::Zero(d32);
    }
#pragma GCC unroll 1
    for (int q = 0; q < kQuads; ++q) {
      const int32_t* HWY_RESTRICT b = panel + 5 * q * lanes;
      const auto exponents = hn::BitCast(du8, hn::Load(d32, b));
      const auto even_significands = hn::BitCast(d16, hn::Load(d32, b + lanes));
      const auto odd_significands = hn::BitCast(d16, hn::Load(d32, b + 2 * lanes));
      const auto even_signs = hn::BitCast(d16, hn::Load(d32, b + 3 * lanes));
      const auto odd_signs = hn::BitCast(d16, hn::Load(d32, b + 4 * lanes));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const int32_t* HWY_RESTRICT row = a + r * a_stride + 5 * q;
        const auto broadcast = [&](int word) HWY_ATTR { return hn::BitCast(d16, hn::Set(d32, row[word])); };
        V16 even, odd;
        SplitCounts(hn::Sub(largest[r], hn::Add(exponents, hn::BitCast(du8, broadcast(0)))), even, odd);
        even = ShiftProducts(hn::Mul(even_significands, broadcast(1)), even);
        odd = ShiftProducts(hn::Mul(odd_significands, broadcast(2)), odd);
        sum[r] = MultiplyAccumulate(even, hn::Xor(even_signs, broadcast(3)), sum[r], rest[r]);
        sum[r] = MultiplyAccumulate(odd, hn::Xor(odd_signs, broadcast(4)), sum[r], rest[r]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      // |sum| < 2^21: exact in FP32, where clearing low fraction bits truncates toward zero.
      const auto exact = hn::ConvertTo(df, hn::RearrangeToOddPlusEven(sum[r], rest[r]));
      const auto kept = hn::BitCast(df, hn::And(hn::BitCast(d32, exact), result_mask));
      const auto e32 = hn::BitCast(d32, hn::ShiftRight<24>(hn::BitCast(hn::RebindToUnsigned<D32>(), largest[r])));
      chain[r] = hn::BitCast(d32, hn::Mul(kept, hn::BitCast(df, hn::ShiftLeft<23>(hn::Sub(e32, align)))));
    }
    if (EndsChain(c, scales, s, steps))
      for (int r = 0; r < kRows; ++r) {
        const auto sum = hn::LoadU(df, total + r * lanes), partial = hn::BitCast(df, chain[r]);
        const float* scale = scales + r * kScalesOfBlock + s / c.promote_steps;
        hn::StoreU(scales ? FusedMulAdd(partial, hn::Set(df, *scale), sum) : hn::Add(sum, partial), df,
                   total + r * lanes);
        chain[r] = hn::Zero(d32);
      }
    panel += 5 * kQuads * lanes;
    a += 5 * kQuads;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) hn::StoreU(hn::BitCast(df, chain[r]), df, acc + r * lanes);
}

#endif  // HWY_TARGET

// `rows` packed rows, `steps` steps of kQuads quads each, against one packed panel. `scales`: kScalesOfBlock for each
// row, or null.
template <int kQuads>
HWY_INLINE void AdvanceBlock(const int32_t* a, int64_t rows, int64_t a_stride, const int32_t* panel, int64_t steps,
                             const ChainConstants& c, const float* scales, float* acc, float* total) {
  const int64_t lanes = ChainLanes();
  int64_t r = 0;
  const auto advance = [&](auto rows_at_once) HWY_ATTR {
    constexpr int kRows = decltype(rows_at_once)::value;
    for (; r + kRows <= rows; r += kRows)
      AdvanceRows<kRows, kQuads>(a + r * a_stride, a_stride, panel, steps, c,
                                 scales ? scales + r * kScalesOfBlock : nullptr, acc + r * lanes, total + r * lanes);
  };
  advance(std::integral_constant<int, kRowsAtOnce>());
  advance(std::integral_constant<int, 2>());
  advance(std::integral_constant<int, 1>());
}

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
