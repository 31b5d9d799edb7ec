// What gives a proof its power: a second opinion on rows alone, and a K-split schedule that the comparison must catch.
#include <algorithm>
#include <cstring>

#include "core/slice.h"
#include "core/verify_layer.h"
#include "numerics/formats.h"
#include "numerics/reference.h"

namespace samebits {
namespace {

// Outputs of one layer, Order and dtype that the scalar reference evaluates on a CPU-only machine.
constexpr int64_t kReferenceOutputs = 64;

/// Where the control cuts K: the half, on whole chunks, and inside a promoted chain, for FP32 adds of whole partial
/// sums are often exact and a cut between them may change nothing. 0: K is too short to cut.
int64_t control_split(const OrderSpec& order, int64_t k) {
  if (k < 32) return 0;
  if (k < 64) return 16;
  const int64_t half = k / 2 / 32 * 32;
  return order.promote_every && half % order.promote_every == 0 ? half + 32 : half;
}

/// The part of `p` that is output [row, col].
GemmProblem one_output(const GemmProblem& p, int64_t row, int64_t col) {
  GemmProblem one = p;
  one.a = p.a.slice_rows(row, 1);
  one.b = p.b.slice_rows(col, 1);
  if (const int64_t block = spec(p.order).scale_block) {
    one.scale_a = p.scale_a.slice_rows(row, 1);
    one.scale_b = p.scale_b.slice_rows(col / block, 1);
  } else {
    if (p.scale_a && !p.scale_a.is_per_tensor()) one.scale_a = Scales::per_tensor(p.scale_a.data + row);
    if (!p.scale_b.is_per_tensor()) one.scale_b = Scales::per_tensor(p.scale_b.data + col);
  }
  if (p.bias) one.bias = p.bias.slice_cols(col, 1);
  one.out = p.out.slice_rows(row, 1).slice_cols(col, 1);
  return one;
}

}  // namespace

GemmProblem LayerProof::sample_problem(Order order, View out) const {
  GemmProblem p;
  p.order = order;
  p.a = ConstView(pool_.data(), pool_dtype_, kDigestRows, k_, k_padded_);
  p.b = layer_.weight;
  if (!pool_scale_.empty()) p.scale_a = token_scales(pool_scale_.data(), 0, kDigestRows);
  p.scale_b = channel_scales(layer_.weight_scale.data(), n_);
  if (layer_.bias) p.bias = ConstView(bias_host_.data(), out.dtype, 1, n_);
  p.out = out;
  return p;
}

void LayerProof::compare_sample(Order order, Dtype dtype, const std::vector<std::byte>& alone,
                                VerifyResult& result) const {
  const int64_t element = static_cast<int64_t>(size_of(dtype)), count = kDigestRows * n_;
  std::vector<std::byte> wanted(alone.size());
  const GemmProblem p = sample_problem(order, View(wanted.data(), dtype, kDigestRows, n_));
  int64_t step = 1;
  if (place_.is_cpu()) {
    step = std::max<int64_t>(1, count / kReferenceOutputs) | 1;  // odd: every lane of a SIMD vector gets its turn
    for (int64_t i = 0; i < count; i += step) reference_gemm(one_output(p, i / n_, i % n_));
  } else {
    Launch cpu;
    cpu.threads = setup_.options.threads;
    gemm(p, cpu);
  }
  for (int64_t i = 0; i < count; i += step) {
    ++result.sample.outputs;
    uint32_t got = 0, want = 0;
    std::memcpy(&got, alone.data() + i * element, static_cast<size_t>(element));
    std::memcpy(&want, wanted.data() + i * element, static_cast<size_t>(element));
    if (got == want) continue;
    ++result.sample.differing;
    if (result.first) continue;
    const std::string_view kernel = plan_alone(order, dtype).kernel;
    result.first = FirstDifference{0,
                                   i % n_,
                                   dtype,
                                   got,
                                   want,
                                   ulps(dtype, got, want),
                                   i / n_,
                                   1,
                                   0,
                                   std::string(kernel),
                                   place_.is_cpu() ? "the scalar reference" : "the CPU backend"};
  }
}

// With block scales: the cut is inside of a block, so there is a third part, from the cut to the block's end. On the
// CPU: no row of a GPU writes these accumulators.
std::vector<float> LayerProof::split_blocks(Order order) const {
  const int64_t split = control_split(spec(order), k_), block = spec(order).scale_block;
  if (split == 0) return {};
  const int64_t cuts[] = {0, split, std::min(k_, (split + block - 1) / block * block), k_};
  std::vector<float> sums(static_cast<size_t>(kDigestRows * n_padded_)), part = sums;
  Launch cpu;
  cpu.threads = setup_.options.threads;
  for (int i = 0; i < 3; ++i) {
    const int64_t first = cuts[i], count = cuts[i + 1] - first;
    if (count == 0) continue;
    GemmProblem p =
        slice_k(sample_problem(order, View(part.data(), Dtype::kF32, kDigestRows, n_, n_padded_)), first, count);
    p.bias = ConstView();
    gemm(p, cpu);
    for (size_t j = 0; j < sums.size(); ++j) sums[j] += part[j];
  }
  return sums;
}

std::vector<float> LayerProof::split_accumulators(Order order) {
  if (layer_.blocks) return split_blocks(order);
  const int64_t split = control_split(spec(order), k_padded_);
  if (split == 0) return {};
  const float one = 1.0f;
  Memory unit(place_, sizeof one);
  unit.upload(&one, sizeof one);
  Memory partial(place_, static_cast<size_t>(n_padded_) * sizeof(float));
  std::vector<float> sums, part(static_cast<size_t>(n_padded_));
  for (int64_t row = 0; row < kDigestRows; ++row)
    for (int half = 0; half < 2; ++half) {
      const int64_t first = half ? split : 0, count = half ? k_padded_ - split : split;
      const Plan plan = choose(place_.device(), order, 1, n_padded_, count, Dtype::kF32);
      GemmProblem p =
          slice_k(problem(plan, order, row, 1, View(partial.data(), Dtype::kF32, 1, n_padded_)), first, count);
      p.scale_a = p.scale_b = Scales::per_tensor(static_cast<const float*>(unit.data()));
      p.bias = ConstView();
      run(p, plan, false);
      place_.synchronize();
      partial.download(part.data(), part.size() * sizeof(float));
      if (half == 0)
        sums.insert(sums.end(), part.begin(), part.end());
      else
        for (size_t col = 0; col < part.size(); ++col) sums[sums.size() - part.size() + col] += part[col];
    }
  return sums;
}

void LayerProof::compare_control(Dtype dtype, const std::vector<float>& accumulators, VerifyResult& result) {
  if (accumulators.empty()) return;
  std::vector<std::byte> host(static_cast<size_t>(kDigestRows * n_padded_) * size_of(dtype));
  const View out(host.data(), dtype, kDigestRows, n_padded_);
  const GemmProblem p = sample_problem(result.order, out.slice_cols(0, n_));
  for (int64_t row = 0; row < kDigestRows; ++row)
    for (int64_t col = 0; col < n_; ++col) {
      const float bias = p.bias ? load(p.bias.dtype, p.bias.at(0, col)) : 0.0f;
      const float acc = accumulators[static_cast<size_t>(row * n_padded_ + col)];
      const float* added = p.bias ? &bias : nullptr;
      const float value = layer_.blocks ? reference_epilogue(acc, added)
                                        : reference_epilogue(acc, p.scale_a.of_row(row), p.scale_b.of_row(col), added);
      store(dtype, out.at(row, col), value);
    }
  out_.upload(host.data(), host.size());
  const ConstView got = ConstView(output(out_, dtype, kDigestRows)).slice_cols(0, n_);
  const ConstView alone = ConstView(output(alone_, dtype, setup_.pool_rows)).slice_cols(0, n_);
  result.control += {static_cast<uint64_t>(kDigestRows * n_), compare_(got, alone, 0).count};
}

}  // namespace samebits
