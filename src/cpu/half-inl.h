// The chain over K of the 16-bit Orders in SIMD lanes, once per Highway target: the bits of numerics/mma.h. Included by
// gemm.cpp only.
//
// A 64-bit lane is one output channel, and everything is a double that is exact: a product of two elements has at most
// 22 significant bits, a step's sum is below 2^32 units, and an accumulator is an FP32. Powers of two stand for
// exponents, so that the largest exponent of a step is a maximum of products.
#if defined(SAMEBITS_CPU_HALF_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_HALF_INL_H_
#undef SAMEBITS_CPU_HALF_INL_H_
#else
#define SAMEBITS_CPU_HALF_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/epilogue-inl.h"
#include "cpu/half.h"
#include "numerics/reference.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DDouble = hn::ScalableTag<double>;
using DWide = hn::RebindToUnsigned<DDouble>;
using VDouble = hn::Vec<DDouble>;

// Rows of `a` that share the loads of a panel.
constexpr int kHalfRowsAtOnce = 4;

// A panel is as wide as a vector of FP32, for the epilogue: two vectors of double (one in the scalar target).
HWY_INLINE int64_t HalfLanes() { return static_cast<int64_t>(FloatLanes()); }

// Rows of packed elements against one vector of channels of a packed panel. `values` and `powers` are [k, HalfLanes()],
// `acc` is [kRows, HalfLanes()]: FP32 values, or an infinity from the step on in which a sum left FP32.
template <int kRows>
HWY_INLINE void AdvanceHalfRows(const OrderSpec& order, const double* HWY_RESTRICT a, int64_t a_stride,
                                const double* HWY_RESTRICT values, const double* HWY_RESTRICT powers, int64_t steps,
                                double* HWY_RESTRICT acc) {
  const DDouble d;
  const DWide du;
  const int64_t lanes = HalfLanes();
  const auto constant = [&](int exponent) HWY_ATTR { return hn::Set(d, std::ldexp(1.0, exponent)); };
  const auto exponent_mask = hn::Set(du, uint64_t{0x7ff} << 52);
  const auto result_mask = hn::Set(du, ~uint64_t{0} << (52 - order.result_bits));
  const auto align = hn::Set(du, static_cast<uint64_t>(order.align_bits) << 52);
  const auto align_2bias = hn::Set(du, static_cast<uint64_t>(2046 + order.align_bits) << 52);
  const auto lowest = constant(order.least_exponent), smallest = constant(-126), last = constant(-149),
             per_last = constant(149), end = constant(128), zero = hn::Zero(d), infinity = hn::Set(d, HUGE_VAL);
  VDouble chain[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) chain[r] = hn::Load(d, acc + r * lanes);
  for (int64_t s = 0; s < steps; ++s) {
    VDouble sum[kRows], scale[kRows], back[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {  // 2^E; an accumulator that is subnormal counts with the smallest exponent
      const auto power = hn::BitCast(d, hn::And(hn::BitCast(du, chain[r]), exponent_mask));
      back[r] = hn::Max(lowest, hn::IfThenElse(hn::Eq(chain[r], zero), zero, hn::Max(power, smallest)));
    }
    for (int i = 0; i < order.chunk; ++i) {
      const VDouble power = hn::Load(d, powers + i * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
        back[r] = hn::Max(back[r], hn::Mul(hn::Set(d, a[r * a_stride + order.chunk + i]), power));
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {  // scale = 2^(A - E), back = 2^(E - A)
      scale[r] = hn::BitCast(d, hn::Sub(align_2bias, hn::BitCast(du, back[r])));
      back[r] = hn::BitCast(d, hn::Sub(hn::BitCast(du, back[r]), align));
      sum[r] = hn::Trunc(hn::Mul(chain[r], scale[r]));
    }
    for (int i = 0; i < order.chunk; ++i) {
      const VDouble value = hn::Load(d, values + i * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const VDouble product = hn::Mul(hn::Set(d, a[r * a_stride + i]), value);
        sum[r] = hn::Add(sum[r], hn::Trunc(hn::Mul(product, scale[r])));
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const VDouble kept = hn::BitCast(d, hn::And(hn::BitCast(du, sum[r]), result_mask));
      // To a multiple of 2^-149, and from -0 to +0.
      const VDouble value = hn::Add(hn::Mul(hn::Trunc(hn::Mul(hn::Mul(kept, back[r]), per_last)), last), zero);
      chain[r] = hn::IfThenElse(hn::Lt(hn::Abs(value), end), value, hn::CopySign(infinity, value));
    }
    values += order.chunk * lanes;
    powers += order.chunk * lanes;
    a += 2 * order.chunk;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) hn::Store(chain[r], d, acc + r * lanes);
}

// What run_panel keeps in its scratch memory, in this order.
struct HalfScratch {
  double* acc;     // [kHalfBlockM, lanes]
  double* values;  // [kHalfBlockK, lanes]
  double* powers;  // [kHalfBlockK, lanes]
  float* scale;    // [lanes]
  float* bias;     // [lanes]
  float* row;      // [lanes]

  static size_t bytes() {
    return static_cast<size_t>(HalfLanes()) * (sizeof(double) * (kHalfBlockM + 2 * kHalfBlockK) + 3 * sizeof(float));
  }
  explicit HalfScratch(void* memory) {
    const int64_t lanes = HalfLanes();
    acc = static_cast<double*>(memory);
    values = acc + kHalfBlockM * lanes;
    powers = values + kHalfBlockK * lanes;
    scale = reinterpret_cast<float*>(powers + kHalfBlockK * lanes);
    bias = scale + lanes;
    row = bias + lanes;
  }
};

// Elements [k0, k0 + count) of the panel's channels, zeros up to `padded` and past the last channel. Sets the bit of
// each lane that met a NaN or an infinity.
HWY_INLINE void PackHalfPanel(const ConstView& b, int64_t k0, int64_t count, int64_t padded, uint32_t smallest,
                              const HalfScratch& scratch, uint64_t& special) {
  const int64_t lanes = HalfLanes();
  for (double* start : {scratch.values, scratch.powers}) std::fill_n(start, padded * lanes, 0.0);
  const auto pack = [&](auto code, auto widen) {
    using Code = decltype(code);
    for (int64_t lane = 0; lane < b.rows; ++lane) {
      const auto* codes = static_cast<const Code*>(b.at(lane, k0));
      bool met = false;
      for (int64_t i = 0; i < count; ++i) {
        const HalfElement x = half_element(widen(codes[i * b.col_stride]), smallest);
        scratch.values[i * lanes + lane] = x.value;
        scratch.powers[i * lanes + lane] = x.power;
        met |= x.special;
      }
      special |= static_cast<uint64_t>(met) << lane;
    }
  };
  switch (b.dtype) {
    case Dtype::kBf16: return pack(uint16_t{}, [](uint32_t code) { return std::bit_cast<float>(code << 16); });
    case Dtype::kF16: return pack(uint16_t{}, [](uint32_t code) { return decode(kFormatF16, code); });
    default: return pack(uint8_t{}, [](uint32_t code) { return decode(kFormatE4m3, code); });
  }
}

void RunHalfPanel(const GemmProblem& problem, const PackedHalf& a, int64_t first_channel, void* memory) {
  const OrderSpec& order = spec(problem.order);
  const int64_t lanes = HalfLanes(), k = problem.k(), width = static_cast<int64_t>(hn::Lanes(DDouble()));
  const int64_t count = std::min(lanes, problem.n() - first_channel);
  const ConstView b = problem.b.slice_rows(first_channel, count);
  const HalfScratch scratch(memory);
  std::fill_n(scratch.acc, a.count * lanes, 0.0);
  LoadChannels(problem, first_channel, count, scratch.scale, scratch.bias);
  uint64_t special = 0;

  for (int64_t k0 = 0; k0 < k; k0 += kHalfBlockK) {
    const int64_t present = std::min(kHalfBlockK, k - k0), steps = (present + order.chunk - 1) / order.chunk;
    PackHalfPanel(b, k0, present, steps * order.chunk, smallest_power(problem.a.dtype), scratch, special);
    for (int64_t channel = 0; channel < lanes; channel += width) {
      int64_t r = 0;
      const auto advance = [&](auto rows_at_once) HWY_ATTR {
        constexpr int kRows = decltype(rows_at_once)::value;
        for (; r + kRows <= a.count; r += kRows)
          AdvanceHalfRows<kRows>(order, a.elements.data() + r * a.row_doubles + 2 * k0, a.row_doubles,
                                 scratch.values + channel, scratch.powers + channel, steps,
                                 scratch.acc + r * lanes + channel);
      };
      advance(std::integral_constant<int, kHalfRowsAtOnce>());
      advance(std::integral_constant<int, 1>());
    }
  }

  for (int64_t r = 0; r < a.count; ++r) {
    for (int64_t i = 0; i < lanes; ++i) {
      const double acc = scratch.acc[r * lanes + i];
      const bool redo = a.special[static_cast<size_t>(r)] || (special >> i & 1) || !std::isfinite(acc);
      scratch.row[i] = i < count && redo
                           ? reference_accumulate(order, problem.a, a.first + r, problem.b, first_channel + i)
                           : static_cast<float>(acc);
    }
    FinishRow(problem, a.first + r, first_channel, count, scratch.scale, scratch.bias, scratch.row);
  }
}

HalfBackend Half() { return {HalfLanes(), HalfScratch::bytes(), RunHalfPanel}; }

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
