// RMSNorm and SiLU * mul of one row in SIMD lanes, once per Highway target, with the bits of numerics/fused.cpp.
// Included by fused.cpp only.
#if defined(SAMEBITS_CPU_FUSED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_FUSED_INL_H_
#undef SAMEBITS_CPU_FUSED_INL_H_
#else
#define SAMEBITS_CPU_FUSED_INL_H_
#endif

#include <hwy/highway.h>

#include "cpu/fused_row.h"
#include "cpu/row-inl.h"
#include "numerics/exp.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

static_assert(2 * HWY_MAX_BYTES / sizeof(float) <= kRowSlack);

// v rounded to the dtype, as FP32.
HWY_INLINE VFloat Cast(Dtype dtype, VFloat v) {
  switch (dtype) {
    case Dtype::kBf16: return DecodeBf16(EncodeBf16(v));
    case Dtype::kF16: return DecodeF16(EncodeF16(v));
    default: return v;
  }
}

void AddResidual(const RmsNorm& norm, int64_t row, float* HWY_RESTRICT y, float* HWY_RESTRICT squares) {
  const DFloat d;
  const ConstView& x = norm.x;
  ForEachVector(x.cols, [&](int64_t col, size_t count) HWY_ATTR {
    VFloat h = LoadElements(x, row, col, count);
    if (norm.residual) {
      h = Cast(x.dtype, hn::Add(h, LoadElements(norm.residual, row, col, count)));
      StoreCodes(Encode(x.dtype, h), count, size_of(x.dtype), norm.residual_out.at(row, col),
                 norm.residual_out.col_stride);
    }
    hn::StoreU(h, d, y + col);
    hn::StoreU(hn::Mul(h, h), d, squares + col);
  });
}

// Level by level in place: sums[i] = sums[2i] + sums[2i + 1]. A zero completes an odd level.
float Sum(float* sums, int64_t count) {
  const DFloat d;
  const int64_t lanes = static_cast<int64_t>(FloatLanes());
  if (count == 0) return 0.0f;
  while (count > 1) {
    sums[count] = 0.0f;
    count = (count + 1) / 2;
    for (int64_t i = 0; i < count; i += lanes) {
      VFloat even, odd;
      hn::LoadInterleaved2(d, sums + 2 * i, even, odd);
      hn::StoreU(hn::Add(even, odd), d, sums + i);
    }
  }
  return sums[0];
}

void Scale(const RmsNorm& norm, float inverse, float* y) {
  const DFloat d;
  const VFloat factor = hn::Set(d, inverse);
  ForEachVector(norm.x.cols, [&](int64_t col, size_t count) HWY_ATTR {
    const VFloat normalized = Cast(norm.x.dtype, hn::Mul(hn::LoadU(d, y + col), factor));
    hn::StoreU(Cast(norm.x.dtype, hn::Mul(normalized, LoadElements(norm.weight, 0, col, count))), d, y + col);
  });
}

// The twin of defined_exp().
HWY_INLINE VFloat Exp(VFloat t) {
  const DFloat d;
  const DBits bits;
  t = hn::Max(hn::Min(t, hn::Set(d, kExpHigh)), hn::Set(d, kExpLow));
  const VFloat z = FusedMulAdd(t, hn::Set(d, kLog2E), hn::Set(d, kExpRound));
  const VFloat n = hn::Sub(z, hn::Set(d, kExpRound));
  VFloat r = FusedMulAdd(n, hn::Set(d, -kLn2High), t);
  r = FusedMulAdd(n, hn::Set(d, -kLn2Low), r);
  VFloat p = hn::Set(d, kExpCoefficients[0]);
  for (int i = 1; i < 5; ++i) p = FusedMulAdd(p, r, hn::Set(d, kExpCoefficients[i]));
  const VFloat one = hn::Set(d, 1.0f);
  p = FusedMulAdd(FusedMulAdd(p, r, one), r, one);
  const VBits exponent = hn::Sub(hn::ShiftLeft<23>(Bits(z)), hn::Set(bits, 1u << 23));
  return hn::Mul(Float(hn::Add(Bits(p), exponent)), hn::Set(d, 2.0f));
}

void SiluMul(const ConstView& x, int64_t row, float* HWY_RESTRICT y) {
  const DFloat d;
  const int64_t cols = x.cols / 2;
  const ConstView gate = x.slice_cols(0, cols), up = x.slice_cols(cols, cols);
  ForEachVector(cols, [&](int64_t col, size_t count) HWY_ATTR {
    const VFloat g = LoadElements(gate, row, col, count);
    const VFloat silu = Cast(x.dtype, hn::Div(g, hn::Add(hn::Set(d, 1.0f), Exp(hn::Neg(g)))));
    hn::StoreU(Cast(x.dtype, hn::Mul(silu, LoadElements(up, row, col, count))), d, y + col);
  });
}

void Store(const float* HWY_RESTRICT y, const View& out, int64_t row) {
  ForEachVector(out.cols, [&](int64_t col, size_t count) HWY_ATTR {
    StoreCodes(Encode(out.dtype, hn::LoadU(DFloat(), y + col)), count, size_of(out.dtype), out.at(row, col),
               out.col_stride);
  });
}

RowProducers Producers() { return {AddResidual, Sum, Scale, SiluMul, Store}; }

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
