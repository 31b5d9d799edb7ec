// The chain over K in SIMD lanes, once per Highway target: packs operands and advances accumulators, with the bits of
// numerics/mma.h. Included by gemm.cpp only.
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
#include <cstring>
#include <type_traits>

#include "cpu/chain.h"
#include "numerics/formats.h"
#include "numerics/reference.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How a significand product is shifted right by a count of each 16-bit lane. AVX-512 and NEON shift; the older x86
// targets multiply by a power of two and keep the high half, which needs the product one bit further left.
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
                            int64_t steps, const ChainConstants& c, float* HWY_RESTRICT acc,
                            float* HWY_RESTRICT total) {
  for (int r = 0; r < kRows; ++r)
    for (int64_t s = 0; s < steps; ++s) {
      acc[r] = Step<kQuads>(a + r * a_stride + s * 5 * kQuads, panel + s * 5 * kQuads, c, acc[r]);
      if (c.promote_steps && (s + 1) % c.promote_steps == 0) total[r] += acc[r], acc[r] = 0.0f;
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
  const DU8 du8;
#if SAMEBITS_SHIFT_BY_MULTIPLY
  // 2^(15 - count) by bytes; a count of 15 or more leaves nothing of a product.
  alignas(16) static constexpr uint8_t kHigh[16] = {128, 64, 32, 16, 8, 4, 2, 1};
  alignas(16) static constexpr uint8_t kLow[16] = {0, 0, 0, 0, 0, 0, 0, 0, 128, 64, 32, 16, 8, 4, 2, 1};
  counts = hn::Min(counts, hn::Set(du8, 15));
  const auto low = hn::BitCast(du16, hn::TableLookupBytes(hn::LoadDup128(du8, kLow), counts));
  const auto high = hn::BitCast(du16, hn::TableLookupBytes(hn::LoadDup128(du8, kHigh), counts));
  const auto low_mask = hn::Set(du16, 0x00ff);
  even = hn::BitCast(D16(), hn::Or(hn::And(low, low_mask), hn::ShiftLeft<8>(high)));
  odd = hn::BitCast(D16(), hn::Or(hn::ShiftRight<8>(low), hn::AndNot(low_mask, high)));
#else
#if HWY_TARGET > HWY_AVX3 || !HWY_ARCH_X86  // x86 shifts give 0 from 16 up; elsewhere that is not promised
  counts = hn::Min(counts, hn::Set(du8, 15));
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
                            int64_t steps, const ChainConstants& c, float* HWY_RESTRICT acc,
                            float* HWY_RESTRICT total) {
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
    if (c.promote_steps && (s + 1) % c.promote_steps == 0)
      for (int r = 0; r < kRows; ++r) {
        hn::StoreU(hn::Add(hn::LoadU(df, total + r * lanes), hn::BitCast(df, chain[r])), df, total + r * lanes);
        chain[r] = hn::Zero(d32);
      }
    panel += 5 * kQuads * lanes;
    a += 5 * kQuads;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) hn::StoreU(hn::BitCast(df, chain[r]), df, acc + r * lanes);
}

#endif  // HWY_TARGET

// Takes apart the codes of `quads` quads of each lane. Returns whether a lane met a NaN or an infinity, in `special`.
template <Dtype kDtype>
HWY_INLINE void DecodePanel(const uint8_t* HWY_RESTRICT codes, int64_t quads, int32_t* HWY_RESTRICT panel,
                            int32_t* HWY_RESTRICT special) {
  static constexpr const Format& kFormat = format_of(kDtype);
#if HWY_TARGET == HWY_SCALAR
  static constexpr CodeTable kTable = code_table(kFormat, kExponentBiasB, 0, 1, -1);
  for (int64_t q = 0; q < quads; ++q) special[0] |= pack_quad(kTable, codes + 4 * q, 1, 4, panel + kQuadWords * q);
#else
  constexpr int kFraction = kFormat.fraction_bits;
  constexpr uint8_t kExponentMask = (1 << kFormat.exponent_bits) - 1;
  const D32 d32;
  const DU8 du8;
  const DU16 du16;
  const D16 d16;
  const int64_t lanes = ChainLanes();
  const auto zero = hn::Zero(du8), one = hn::Set(du8, 1);
  V32 met = hn::Load(d32, special);
  for (int64_t q = 0; q < quads; ++q) {
    const VU8 code = hn::BitCast(du8, hn::Load(d32, reinterpret_cast<const int32_t*>(codes) + q * lanes));
    const VU8 magnitude = hn::And(code, hn::Set(du8, 0x7f));
    const VU8 field =
        hn::And(hn::BitCast(du8, hn::ShiftRight<kFraction>(hn::BitCast(du16, code))), hn::Set(du8, kExponentMask));
    const VU8 hidden = hn::IfThenZeroElse(hn::Eq(field, zero), hn::Set(du8, 1 << kFraction));
    const VU8 significand = hn::Or(hn::And(code, hn::Set(du8, (1 << kFraction) - 1)), hidden);
    const VU8 exponent = hn::IfThenZeroElse(
        hn::Eq(magnitude, zero),
        hn::Add(hn::Max(field, one), hn::Set(du8, static_cast<uint8_t>(kExponentBiasB - kFormat.bias))));
    const VU8 specials = kFormat.has_infinity ? hn::VecFromMask(du8, hn::Eq(field, hn::Set(du8, kExponentMask)))
                                              : hn::VecFromMask(du8, hn::Eq(magnitude, hn::Set(du8, 0x7f)));
    met = hn::Or(met, hn::BitCast(d32, specials));

    const auto significands = hn::BitCast(du16, significand);
    const auto signs = hn::BitCast(d16, code);  // the sign bit of each half, copied down, then 0 -> 1
    int32_t* HWY_RESTRICT out = panel + q * kQuadWords * lanes;
    const auto put = [&](int word, auto v) HWY_ATTR { hn::Store(hn::BitCast(d32, v), d32, out + word * lanes); };
    put(0, exponent);
    put(1, hn::And(significands, hn::Set(du16, 0x00ff)));
    put(2, hn::ShiftRight<8>(significands));
    put(3, hn::Or(hn::ShiftRight<15>(hn::ShiftLeft<8>(signs)), hn::Set(d16, 1)));
    put(4, hn::Or(hn::ShiftRight<15>(signs), hn::Set(d16, 1)));
  }
  hn::Store(met, d32, special);
#endif
}

// Copies elements [k0, k0 + count) of the panel's channels so that the four codes of a quad lie together, quad by quad,
// with zeros past the end of K and past the last channel.
HWY_INLINE void TransposeCodes(const ConstView& b, int64_t k0, int64_t count, int64_t quads,
                               uint8_t* HWY_RESTRICT codes) {
  const int64_t lanes = ChainLanes();
  for (int64_t lane = 0; lane < lanes; ++lane) {
    uint8_t* HWY_RESTRICT out = codes + 4 * lane;
    if (lane >= b.rows) {
      for (int64_t q = 0; q < quads; ++q) std::memset(out + q * 4 * lanes, 0, 4);
      continue;
    }
    const uint8_t* HWY_RESTRICT in = static_cast<const uint8_t*>(b.at(lane, k0));
    const int64_t whole = b.col_stride == 1 ? count / 4 : 0;
    for (int64_t q = 0; q < whole; ++q) std::memcpy(out + q * 4 * lanes, in + 4 * q, 4);
    for (int64_t k = 4 * whole; k < 4 * quads; ++k)
      out[k / 4 * 4 * lanes + k % 4] = k < count ? in[k * b.col_stride] : uint8_t{0};
  }
}

template <int kQuads>
HWY_INLINE void AdvanceBlock(const int32_t* a, int64_t rows, int64_t a_stride, const int32_t* panel, int64_t steps,
                             const ChainConstants& c, float* acc, float* total) {
  const int64_t lanes = ChainLanes();
  int64_t r = 0;
  const auto advance = [&](auto rows_at_once) HWY_ATTR {
    constexpr int kRows = decltype(rows_at_once)::value;
    for (; r + kRows <= rows; r += kRows)
      AdvanceRows<kRows, kQuads>(a + r * a_stride, a_stride, panel, steps, c, acc + r * lanes, total + r * lanes);
  };
  advance(std::integral_constant<int, kRowsAtOnce>());
  advance(std::integral_constant<int, 2>());
  advance(std::integral_constant<int, 1>());
}

// What run_panel keeps in its scratch memory, in this order.
struct Scratch {
  float* acc;        // [kBlockM, lanes]
  float* total;      // [kBlockM, lanes]
  int32_t* special;  // [lanes]
  float* scale;      // [lanes]
  float* bias;       // [lanes]
  uint8_t* codes;    // [kBlockK / 4, lanes, 4]
  int32_t* panel;    // [kBlockK / 4, kQuadWords, lanes]

  static size_t words() {
    return static_cast<size_t>(ChainLanes()) * (2 * kBlockM + 3 + kBlockK / 4 * (1 + kQuadWords));
  }
  explicit Scratch(void* memory) {
    const int64_t lanes = ChainLanes();
    acc = static_cast<float*>(memory);
    total = acc + kBlockM * lanes;
    special = reinterpret_cast<int32_t*>(total + kBlockM * lanes);
    scale = reinterpret_cast<float*>(special + lanes);
    bias = scale + lanes;
    codes = reinterpret_cast<uint8_t*>(bias + lanes);
    panel = reinterpret_cast<int32_t*>(codes + kBlockK * lanes);
  }
};

// The epilogue of one row of a panel. `acc` holds the accumulators of its `count` channels.
HWY_INLINE void FinishRow(const GemmProblem& problem, int64_t row, int64_t first_channel, int64_t count,
                          const Scratch& scratch, const float* acc) {
  const DFloat d;
  const VFloat t = hn::Mul(hn::Set(d, problem.scale_a.of_row(row)), hn::Load(d, acc));
  const VFloat scale_b = hn::Load(d, scratch.scale);
  const VFloat value = problem.bias ? FusedMulAdd(scale_b, t, hn::Load(d, scratch.bias)) : hn::Mul(scale_b, t);
  const View& out = problem.out;
  StoreCodes(Encode(out.dtype, value), static_cast<size_t>(count), size_of(out.dtype), out.at(row, first_channel),
             out.col_stride);
}

void RunPanel(const GemmProblem& problem, const PackedRows& a, int64_t first_channel, void* memory) {
  const OrderSpec& order = spec(problem.order);
  const ChainConstants constants{order.align_bits, ~uint32_t{0} << (23 - order.result_bits),
                                 order.promote_every / order.chunk};
  const int64_t lanes = ChainLanes(), k = problem.k();
  const int64_t count = std::min(lanes, problem.n() - first_channel);
  const ConstView b = problem.b.slice_rows(first_channel, count);
  const Scratch scratch(memory);
  std::memset(memory, 0, static_cast<size_t>((2 * kBlockM + 3) * lanes) * sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    scratch.scale[i] = problem.scale_b.of_row(first_channel + i);
    if (problem.bias) scratch.bias[i] = load(problem.bias.dtype, problem.bias.at(0, first_channel + i));
  }

  for (int64_t k0 = 0; k0 < k; k0 += kBlockK) {
    const int64_t steps = (std::min<int64_t>(kBlockK, k - k0) + order.chunk - 1) / order.chunk;
    const int64_t quads = steps * order.chunk / 4;
    TransposeCodes(b, k0, std::min<int64_t>(kBlockK, k - k0), quads, scratch.codes);
    if (b.dtype == Dtype::kE4m3)
      DecodePanel<Dtype::kE4m3>(scratch.codes, quads, scratch.panel, scratch.special);
    else
      DecodePanel<Dtype::kE5m2>(scratch.codes, quads, scratch.panel, scratch.special);
    const int32_t* words = a.words.data() + k0 / 4 * kQuadWords;
    const auto advance = order.chunk == 32 ? AdvanceBlock<8> : AdvanceBlock<4>;
    advance(words, a.count, a.row_words, scratch.panel, steps, constants, scratch.acc, scratch.total);
  }

  for (int64_t r = 0; r < a.count; ++r) {
    float* acc = scratch.acc + r * lanes;
    for (int64_t i = 0; i < count; ++i) {
      if (order.promote_every) acc[i] += scratch.total[r * lanes + i];
      if (a.special[static_cast<size_t>(r)] || scratch.special[i])
        acc[i] = reference_accumulate(order, problem.a, a.first + r, problem.b, first_channel + i);
    }
    FinishRow(problem, a.first + r, first_channel, count, scratch, acc);
  }
}

ChainBackend Backend() {
  return {ChainLanes(), SAMEBITS_SHIFT_BY_MULTIPLY, Scratch::words() * sizeof(int32_t), RunPanel};
}

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
