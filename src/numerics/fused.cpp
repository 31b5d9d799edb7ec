// The formulas of include/samebits/fused.h as docs/contract.md has them. Called by the tests.
#include "numerics/fused.h"

#include <vector>

#include "numerics/exp.h"
#include "numerics/float_env.h"
#include "numerics/formats.h"

namespace samebits {
namespace {

float cast(Dtype dtype, float value) {
  uint32_t bits;
  store(dtype, &bits, value);
  return load(dtype, &bits);
}

}  // namespace

float reference_sum_of_squares(const float* h, int64_t count) {
  std::vector<float> sums(h, h + count);
  for (float& v : sums) v *= v;
  while (sums.size() > 1) {
    if (sums.size() % 2) sums.push_back(0.0f);
    for (size_t i = 0; i < sums.size() / 2; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
    sums.resize(sums.size() / 2);
  }
  return sums.empty() ? 0.0f : sums[0];
}

void reference_rms_norm(const RmsNorm& norm, View y) {
  const FloatEnv env;
  const ConstView& x = norm.x;
  std::vector<float> h(static_cast<size_t>(x.cols));
  for (int64_t row = 0; row < x.rows; ++row) {
    for (int64_t i = 0; i < x.cols; ++i) {
      float& v = h[static_cast<size_t>(i)];
      v = load(x.dtype, x.at(row, i));
      if (!norm.residual) continue;
      v = cast(x.dtype, v + load(x.dtype, norm.residual.at(row, i)));
      store(x.dtype, norm.residual_out.at(row, i), v);
    }
    const float inverse = inverse_rms(reference_sum_of_squares(h.data(), x.cols), x.cols, norm.epsilon);
    for (int64_t i = 0; i < x.cols; ++i)
      store(x.dtype, y.at(row, i),
            cast(x.dtype, h[static_cast<size_t>(i)] * inverse) * load(x.dtype, norm.weight.at(0, i)));
  }
}

void reference_silu_mul(ConstView x, View y) {
  const FloatEnv env;
  for (int64_t row = 0; row < x.rows; ++row)
    for (int64_t i = 0; i < y.cols; ++i) {
      const float silu = cast(x.dtype, defined_silu(load(x.dtype, x.at(row, i))));
      store(x.dtype, y.at(row, i), silu * load(x.dtype, x.at(row, y.cols + i)));
    }
}

}  // namespace samebits
