// The contract evaluated one element at a time. Called by the tests, by verify and `samebits audit --reference`, and by
// the CPU backend for outputs that a NaN or an infinity reaches.
#include "numerics/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "numerics/float_env.h"
#include "numerics/formats.h"
#include "numerics/mma.h"

namespace samebits {
namespace {

// The code of an element narrower than FP32; an e4m3 element is widened to `as` where that is bf16 or fp16: exact.
uint16_t code_at(const ConstView& v, int64_t row, int64_t col, Dtype as) {
  const void* p = v.at(row, col);
  if (v.dtype != as) return static_cast<uint16_t>(encode(format_of(as), load(v.dtype, p)));
  return size_of(v.dtype) == 1 ? *static_cast<const uint8_t*>(p) : *static_cast<const uint16_t*>(p);
}

}  // namespace

float reference_accumulate(const OrderSpec& spec, const ConstView& a, int64_t row, const ConstView& b,
                           int64_t channel) {
  const int64_t k = a.cols;
  const Dtype b_dtype = spec.operands == Operands::kHalf ? a.dtype : b.dtype;
  float total = 0.0f, chain = 0.0f;
  uint16_t x[32], y[32];
  for (int64_t k0 = 0; k0 < k; k0 += spec.chunk) {
    const int count = static_cast<int>(std::min<int64_t>(spec.chunk, k - k0));
    for (int i = 0; i < count; ++i) {
      x[i] = code_at(a, row, k0 + i, a.dtype);
      y[i] = code_at(b, channel, k0 + i, b_dtype);
    }
    chain = mma_step(spec, a.dtype, b_dtype, x, y, count, chain);
    const bool last = k0 + spec.chunk >= k;
    if (spec.promote_every && ((k0 + spec.chunk) % spec.promote_every == 0 || last)) {
      total += chain;
      chain = 0.0f;
    }
  }
  return spec.promote_every ? total : chain;
}

float reference_epilogue(float acc, float scale_a, float scale_b, const float* bias) {
  const float t = scale_a * acc;
  return bias ? std::fma(scale_b, t, *bias) : scale_b * t;
}

void reference_gemm(const GemmProblem& p) {
  const FloatEnv env;
  const OrderSpec& order = spec(p.order);
  for (int64_t m = 0; m < p.m(); ++m)
    for (int64_t n = 0; n < p.n(); ++n) {
      const float acc = reference_accumulate(order, p.a, m, p.b, n);
      const float bias = p.bias ? load(p.bias.dtype, p.bias.at(0, n)) : 0.0f;
      const float value = reference_epilogue(acc, p.scale_a.of_row(m), p.scale_b.of_row(n), p.bias ? &bias : nullptr);
      store(p.out.dtype, p.out.at(m, n), value);
    }
}

}  // namespace samebits
