// One row of each quantizer in SIMD lanes, once per Highway target, with the bits of numerics/formats.h. Included by
// quantize.cpp only.
#if defined(SAMEBITS_CPU_QUANTIZE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_QUANTIZE_INL_H_
#undef SAMEBITS_CPU_QUANTIZE_INL_H_
#else
#define SAMEBITS_CPU_QUANTIZE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>

#include "cpu/quantize_row.h"
#include "cpu/row-inl.h"
#include "samebits/quantize.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE uint32_t LargestLane(hn::Vec<DInt> v) {
  HWY_ALIGN int32_t lanes[HWY_MAX_BYTES / 4] = {};
  hn::Store(v, DInt(), lanes);
  return static_cast<uint32_t>(*std::max_element(lanes, lanes + FloatLanes()));
}

// FP32 bits of the largest |x| of a row. Magnitudes order like integers, NaN above infinity.
RowRange MeasureRow(const ConstView& x, int64_t row) {
  const DInt d;
  auto largest = hn::Zero(d), largest_number = hn::Zero(d);
  ForEachVector(x.cols, [&](int64_t col, size_t count) HWY_ATTR {
    const auto magnitude = Magnitude(LoadElements(x, row, col, count));
    largest = hn::Max(largest, hn::BitCast(d, magnitude));
    const auto number = WhereBelow(magnitude, 0x7f800001, magnitude, hn::Zero(DBits()));
    largest_number = hn::Max(largest_number, hn::BitCast(d, number));
  });
  return {std::bit_cast<float>(LargestLane(largest_number)), LargestLane(largest) < 0x7f800000};
}

// q = e4m3(clamp(x / factor)) or, with `multiply`, e4m3(clamp(x * factor)); zeros in the padding.
void QuantizeRow(const ConstView& x, int64_t row, float factor, bool multiply, const View& q) {
  const DFloat d;
  const VFloat f = hn::Set(d, factor), high = hn::Set(d, kE4m3Max), low = hn::Set(d, -kE4m3Max);
  ForEachVector(x.cols, [&](int64_t col, size_t count) HWY_ATTR {
    VFloat v = LoadElements(x, row, col, count);
    v = multiply ? hn::Mul(v, f) : hn::Div(v, f);
    v = hn::IfThenElse(hn::Gt(v, high), high, v);  // NaN compares false and passes
    v = hn::IfThenElse(hn::Lt(v, low), low, v);
    StoreCodes(EncodeE4m3(v), count, 1, q.at(row, col), q.col_stride);
  });
  for (int64_t col = x.cols; col < q.cols; ++col) *static_cast<uint8_t*>(q.at(row, col)) = 0;
}

// out = cast(table[q] * scale).
void DequantizeRow(const ConstView& q, int64_t row, const float* HWY_RESTRICT table, float scale, const View& out) {
  const DFloat d;
  ForEachVector(q.cols, [&](int64_t col, size_t count) HWY_ATTR {
    HWY_ALIGN float values[HWY_MAX_BYTES / 4] = {};
    const auto* codes = static_cast<const uint8_t*>(q.at(row, col));
    for (size_t i = 0; i < count; ++i) values[i] = table[codes[static_cast<int64_t>(i) * q.col_stride]];
    const VFloat v = hn::Mul(hn::Load(d, values), hn::Set(d, scale));
    StoreCodes(Encode(out.dtype, v), count, size_of(out.dtype), out.at(row, col), out.col_stride);
  });
}

RowQuantizers Quantizers() { return {MeasureRow, QuantizeRow, DequantizeRow}; }

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
