// Scales and threads of the CPU quantizers; rows run in the SIMD target that the CPU has. Called through quantize.h.
#include "cpu/quantize.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/quantize_row.h"
#include "numerics/formats.h"

#define HWY_WANT_AVX3_DL
#define HWY_COMPILE_ALL_ATTAINABLE  // as in gemm.cpp
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/quantize.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include "cpu/quantize-inl.h"

#if HWY_ONCE
namespace samebits::cpu {
namespace {

HWY_EXPORT(Quantizers);

RowQuantizers quantizers() { return HWY_DYNAMIC_DISPATCH(Quantizers)(); }

template <class Body>
void for_each_row(const ConstView& v, int threads, const Body& body) {
  parallel_for(v.rows, row_grain(v.cols), threads, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) body(row);
  });
}

float scale_of(float absmax) { return std::max(absmax / kE4m3Max, kMinScale); }

// Columns [first, first + kGroup) of a view, as many of them as there are.
template <class V>
V group_of(const V& v, int64_t first) {
  return v.slice_cols(first, std::min(kGroup, v.cols - first));
}

// The smallest power of two that is not below x, for a normal x.
float round_up_to_power(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fffffu) & 0x7f800000u);
}

float group_scale(float absmax, bool power_of_two) {
  const float scale = std::max(absmax, kMinGroupAbsmax) / kE4m3Max;
  return power_of_two ? round_up_to_power(std::max(scale, kMinGroupAbsmax)) : scale;
}

void quantize_blocks(const ConstView& w, const View& q, float* scale, std::string_view what, int threads) {
  const RowQuantizers rows = quantizers();
  const int64_t across = groups_along(w.cols);
  std::atomic<bool> finite = true;
  parallel_for(groups_along(w.rows), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * across; i < end * across; ++i) {
      const int64_t first_row = i / across * kGroup, first_col = i % across * kGroup;
      const int64_t count = std::min(kGroup, w.rows - first_row);
      const ConstView block = group_of(w.slice_rows(first_row, count), first_col);
      float absmax = 0.0f;
      for (int64_t row = 0; row < count; ++row) {
        const RowRange range = rows.measure(block, row);
        if (!range.finite) finite = false;
        absmax = std::max(absmax, range.absmax);
      }
      scale[i] = scale_of(absmax);
      const View codes = group_of(q.slice_rows(first_row, count), first_col);
      for (int64_t row = 0; row < count; ++row) rows.quantize(block, row, scale[i], false, codes);
    }
  });
  if (!finite) check_finite(w, what);  // names the element, the first in row order
}

}  // namespace

void quantize_per_token(ConstView x, View q, float* scale, const float* upper_bound, int threads) {
  const RowQuantizers rows = quantizers();
  for_each_row(x, threads, [&](int64_t row) {
    const float absmax = rows.measure(x, row).absmax;
    scale[row] = scale_of(upper_bound ? std::fmin(absmax, *upper_bound) : absmax);
    rows.quantize(x, row, scale[row], false, q);
  });
}

void quantize_static(ConstView x, const float* scale, View q, int threads) {
  const RowQuantizers rows = quantizers();
  const FloatEnv env;
  const float reciprocal = 1.0f / *scale;
  for_each_row(x, threads, [&](int64_t row) { rows.quantize(x, row, reciprocal, true, q); });
}

void quantize_per_group(ConstView x, View q, const GroupScales& scales, int threads) {
  const RowQuantizers rows = quantizers();
  for_each_row(x, threads, [&](int64_t row) {
    for (int64_t first = 0; first < x.cols; first += kGroup) {
      const ConstView group = group_of(x, first);
      const float scale = group_scale(rows.measure(group, row).absmax, scales.power_of_two);
      *static_cast<float*>(scales.scale.at(row, first / kGroup)) = scale;
      // The last group's codes take the padding with them.
      const bool last = first + kGroup >= x.cols;
      rows.quantize(group, row, scale, false, q.slice_cols(first, last ? q.cols - first : kGroup));
    }
    if (x.cols == 0) rows.quantize(x, row, 1.0f, false, q);
  });
}

void quantize_weight(ConstView w, Granularity granularity, View q, float* scale, std::string_view what, int threads) {
  if (granularity == Granularity::kPerBlock) return quantize_blocks(w, q, scale, what, threads);
  const FloatEnv env;
  const RowQuantizers rows = quantizers();
  std::vector<RowRange> ranges(static_cast<size_t>(w.rows));
  for_each_row(w, threads, [&](int64_t row) { ranges[static_cast<size_t>(row)] = rows.measure(w, row); });
  float absmax = 0.0f;
  for (int64_t row = 0; row < w.rows; ++row) {
    const RowRange& range = ranges[static_cast<size_t>(row)];
    if (!range.finite) check_finite(w, what);  // names the element, the first in row order
    absmax = std::max(absmax, range.absmax);
    if (granularity == Granularity::kPerChannel) scale[row] = scale_of(range.absmax);
  }
  if (granularity == Granularity::kPerTensor) scale[0] = scale_of(absmax);
  for_each_row(w, threads, [&](int64_t row) {
    rows.quantize(w, row, scale[granularity == Granularity::kPerTensor ? 0 : row], false, q);
  });
}

void dequantize(ConstView q, const Scales& scale, View out, int threads) {
  const RowQuantizers rows = quantizers();
  std::array<float, 256> table;
  for (uint32_t code = 0; code < table.size(); ++code) table[code] = decode(format_of(q.dtype), code);
  const bool blocks = of_blocks(scale, q.rows);
  for_each_row(q, threads, [&](int64_t row) {
    if (!blocks) return rows.dequantize(q, row, table.data(), scale.of_row(row), out);
    for (int64_t first = 0; first < q.cols; first += kGroup)
      rows.dequantize(group_of(q, first), row, table.data(), scale.at(row / kGroup, first / kGroup),
                      group_of(out, first));
  });
}

}  // namespace samebits::cpu
#endif  // HWY_ONCE
