// Scales and threads of the CPU quantizers; rows run in the SIMD target that the CPU has. Called through quantize.h.
#include "cpu/quantize.h"

#include <algorithm>
#include <array>
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

void quantize_weight(ConstView w, Granularity granularity, View q, float* scale, std::string_view what, int threads) {
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
  for_each_row(q, threads, [&](int64_t row) { rows.dequantize(q, row, table.data(), scale.of_row(row), out); });
}

}  // namespace samebits::cpu
#endif  // HWY_ONCE
