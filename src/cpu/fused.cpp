// Threads of the CPU's RMSNorm and SiLU * mul; rows run in the SIMD target that the CPU has. Called through fused.h.
#include "cpu/fused.h"

#include <algorithm>
#include <vector>

#include "cpu/fused_row.h"
#include "cpu/parallel.h"
#include "cpu/quantize.h"
#include "numerics/fused.h"

#define HWY_WANT_AVX3_DL
#define HWY_COMPILE_ALL_ATTAINABLE  // as in gemm.cpp
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/fused.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include "cpu/fused-inl.h"

#if HWY_ONCE
namespace samebits::cpu {
namespace {

HWY_EXPORT(Producers);

RowProducers producers() { return HWY_DYNAMIC_DISPATCH(Producers)(); }

// Calls produce(row, y, scratch) and then consume(row, y) for each row, both buffers `cols` and the slack long.
template <class Produce, class Consume>
void for_each_row(const ConstView& x, int64_t cols, int threads, const Produce& produce, const Consume& consume) {
  parallel_for(x.rows, row_grain(x.cols), threads, [&](int64_t first, int64_t last) {
    std::vector<float> y(static_cast<size_t>(cols + kRowSlack)), scratch(y.size());
    for (int64_t row = first; row < last; ++row) {
      produce(row, y.data(), scratch.data());
      consume(row, y.data());
    }
  });
}

template <class Consume>
void norm_rows(const RmsNorm& norm, int threads, const Consume& consume) {
  const int64_t cols = norm.x.cols;
  const auto produce = [&, rows = producers()](int64_t row, float* y, float* squares) {
    rows.add_residual(norm, row, y, squares);
    rows.scale(norm, inverse_rms(rows.sum(squares, cols), cols, norm.epsilon), y);
  };
  for_each_row(norm.x, cols, threads, produce, consume);
}

template <class Consume>
void silu_rows(const ConstView& x, int threads, const Consume& consume) {
  const auto produce = [&, rows = producers()](int64_t row, float* y, float*) { rows.silu_mul(x, row, y); };
  for_each_row(x, x.cols / 2, threads, produce, consume);
}

auto store_rows(const View& out) {
  return [out, rows = producers()](int64_t row, const float* y) { rows.store(y, out, row); };
}

auto quantize_rows(int64_t cols, const View& q, float* scale, const float* upper_bound) {
  return [=](int64_t row, const float* y) {
    quantize_per_token(ConstView(y, Dtype::kF32, 1, cols), q.slice_rows(row, 1), scale + row, upper_bound, 1);
  };
}

auto quantize_groups(int64_t cols, const View& q, const GroupScales& scales) {
  return [=](int64_t row, const float* y) {
    quantize_per_group(ConstView(y, Dtype::kF32, 1, cols), q.slice_rows(row, 1),
                       {scales.scale.slice_rows(row, 1), scales.power_of_two}, 1);
  };
}

}  // namespace

void rms_norm(const RmsNorm& norm, View y, int threads) { norm_rows(norm, threads, store_rows(y)); }

void rms_norm_quantize(const RmsNorm& norm, View q, float* scale, const float* upper_bound, int threads) {
  norm_rows(norm, threads, quantize_rows(norm.x.cols, q, scale, upper_bound));
}

void rms_norm_quantize_per_group(const RmsNorm& norm, View q, const GroupScales& scales, int threads) {
  norm_rows(norm, threads, quantize_groups(norm.x.cols, q, scales));
}

void silu_mul(ConstView x, View y, int threads) { silu_rows(x, threads, store_rows(y)); }

void silu_mul_quantize(ConstView x, View q, float* scale, const float* upper_bound, int threads) {
  silu_rows(x, threads, quantize_rows(x.cols / 2, q, scale, upper_bound));
}

void silu_mul_quantize_per_group(ConstView x, View q, const GroupScales& scales, int threads) {
  silu_rows(x, threads, quantize_groups(x.cols / 2, q, scales));
}

}  // namespace samebits::cpu
#endif  // HWY_ONCE
