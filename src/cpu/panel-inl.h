// One panel of output channels against packed rows of `a`, once per Highway target: packs the panel, advances the
// chains block by block in order of K, and writes the epilogue. Included by gemm.cpp only.
#if defined(SAMEBITS_CPU_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_PANEL_INL_H_
#undef SAMEBITS_CPU_PANEL_INL_H_
#else
#define SAMEBITS_CPU_PANEL_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "cpu/chain-inl.h"
#include "cpu/chain.h"
#include "cpu/epilogue-inl.h"
#include "numerics/formats.h"
#include "numerics/reference.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

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
  int64_t done = 0;  // quads
#if HWY_TARGET != HWY_SCALAR
  // A whole panel of dense rows: 4 x 4 quads at a time.
  const hn::Full128<uint8_t> d8;
  const hn::Full128<uint32_t> d32;
  const hn::Full128<uint64_t> d64;
  for (; b.rows == lanes && b.col_stride == 1 && 4 * done + 16 <= count; done += 4)
    for (int64_t lane = 0; lane < lanes; lane += 4) {
      const auto row = [&](int64_t i) HWY_ATTR {
        return hn::BitCast(d32, hn::LoadU(d8, static_cast<const uint8_t*>(b.at(lane + i, k0 + 4 * done))));
      };
      const auto put = [&](int64_t q, auto v)
                           HWY_ATTR { hn::Store(hn::BitCast(d8, v), d8, codes + 4 * ((done + q) * lanes + lane)); };
      const auto r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
      const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d32, r0, r1));
      const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d32, r2, r3));
      const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d32, r0, r1));
      const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d32, r2, r3));
      put(0, hn::InterleaveLower(d64, low01, low23));
      put(1, hn::InterleaveUpper(d64, low01, low23));
      put(2, hn::InterleaveLower(d64, high01, high23));
      put(3, hn::InterleaveUpper(d64, high01, high23));
    }
#endif
  for (int64_t q = done; q < quads; ++q)
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t i = 0; i < 4; ++i) {
        const bool inside = lane < b.rows && 4 * q + i < count;
        codes[4 * (q * lanes + lane) + i] =
            inside ? *static_cast<const uint8_t*>(b.at(lane, k0 + 4 * q + i)) : uint8_t{0};
      }
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

void RunPanel(const GemmProblem& problem, const PackedRows& a, int64_t first_channel, void* memory) {
  const OrderSpec& order = spec(problem.order);
  const ChainConstants constants{order.align_bits, ~uint32_t{0} << (23 - order.result_bits),
                                 order.promote_every / order.chunk};
  const int64_t lanes = ChainLanes(), k = problem.k();
  const int64_t count = std::min(lanes, problem.n() - first_channel);
  const ConstView b = problem.b.slice_rows(first_channel, count);
  const Scratch scratch(memory);
  for (float* start : {scratch.acc, scratch.total}) std::fill_n(start, a.count * lanes, 0.0f);
  std::fill_n(scratch.special, lanes, 0);
  LoadChannels(problem, first_channel, count, scratch.scale, scratch.bias);

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
    FinishRow(problem, a.first + r, first_channel, count, scratch.scale, scratch.bias, acc);
  }
}

ChainBackend Backend() {
  return {ChainLanes(), SAMEBITS_SHIFT_BY_MULTIPLY, Scratch::words() * sizeof(int32_t), RunPanel};
}

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
