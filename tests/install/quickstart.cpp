#include <samebits/gemm.h>
#include <samebits/quantize.h>

#include <cstdio>
#include <cstring>
#include <vector>

int main() {
  using namespace samebits;
  constexpr int64_t m = 3, n = 32, k = 64;
  std::vector<float> weight(n * k), x(m * k);
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i * 37 % 101) - 50;
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 53 % 97) / 16 - 3;

  // FP8 weight with a scale for each output channel, FP8 activations with a scale for each token.
  std::vector<uint8_t> b(n * k), a(m * k);
  std::vector<float> scale_b(n), scale_a(m);
  quantize_weight({weight.data(), Dtype::kF32, n, k}, Granularity::kPerChannel, {b.data(), Dtype::kE4m3, n, k},
                  scale_b.data(), "weight");
  quantize_per_token({x.data(), Dtype::kF32, m, k}, {a.data(), Dtype::kE4m3, m, k}, scale_a.data(), nullptr);

  std::vector<uint16_t> together(m * n), alone(n);
  GemmProblem problem;
  problem.order = Order::kHopperFast;
  problem.a = {a.data(), Dtype::kE4m3, m, k};
  problem.b = {b.data(), Dtype::kE4m3, n, k};
  problem.scale_a = Scales::per_row(scale_a.data(), m);
  problem.scale_b = Scales::per_row(scale_b.data(), n);
  problem.out = {together.data(), Dtype::kBf16, m, n};
  gemm(problem);

  // The last token once more, alone in its batch.
  problem.a = problem.a.slice_rows(m - 1, 1);
  problem.scale_a = Scales::per_row(&scale_a[m - 1], 1);
  problem.out = {alone.data(), Dtype::kBf16, 1, n};
  gemm(problem);

  const bool same = std::memcmp(alone.data(), &together[(m - 1) * n], n * sizeof(uint16_t)) == 0;
  std::puts(same ? "same bits" : "different bits");
  return same ? 0 : 1;
}
