// See bench_layer.h.
#include "cli/bench_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "samebits/fused.h"
#include "samebits/quantize.h"

namespace samebits::cli {
namespace {

constexpr int kSuggestions = 8, kFirstLookRounds = 3, kFirstLookCalls = 32;

size_t elements(int64_t rows, int64_t cols) { return static_cast<size_t>(rows * cols); }

}  // namespace

void check_layer(const DeviceInfo& device, std::string_view model, int64_t max_m) {
  const auto& s = model_shapes(model).shapes;
  const bool chain = s.size() == 4 && s[1].n == s[0].k && s[2].k == s[0].k && s[2].n == 2 * s[3].k && s[3].n == s[0].k;
  if (!chain) throw Error(ErrorCode::kBadInput, fmt::format("{} is not qkv, o, gate_up and down of one layer", model));
  for (const Shape& shape : s) check_memory(device, shape, max_m);
}

BenchLayer::BenchLayer(const Place& place, std::string_view model, int64_t max_m) : place_(place), max_m_(max_m) {
  const auto shapes = model_shapes(model).shapes;
  int64_t bytes = 0, widest = 0;
  for (const Shape& s : shapes) {
    bytes += s.n * s.k;
    widest = std::max(widest, s.k);
  }
  copies_ = copies_past_l2(place.device(), bytes);
  for (Linear i : kLinears) {
    const Shape s = shapes[i];
    weights_[i] = {s, random_codes(place, CodeStream::kWeights, elements(s.n, s.k), copies_),
                   random_scales(place, s.n, 4)};
    outputs_[i] = Memory(place, elements(max_m, s.n) * 2);
  }
  const int64_t hidden = shapes[kQkv].k;
  x_ = random_bf16(place, elements(max_m, hidden), 5);
  residual_ = random_bf16(place, elements(max_m, hidden), 6);
  attention_ = random_bf16(place, elements(max_m, shapes[kO].k), 7);
  norm_weight_ = random_bf16(place, elements(1, hidden), 8);
  hidden_ = Memory(place, x_.size());
  unquantized_ = Memory(place, elements(max_m, widest) * 2);
  quantized_ = Memory(place, elements(max_m, widest));
  scales_ = Memory(place, elements(max_m, 1) * sizeof(float));
  launch_ = plain_launch(place, workspace_);
}

int64_t BenchLayer::weight_bytes() const {
  int64_t bytes = 0;
  for (const Weight& w : weights_) bytes += w.shape.n * w.shape.k;
  return bytes;
}

View BenchLayer::bf16(const Memory& memory, int64_t m, int64_t cols) const {
  return View(memory.data(), Dtype::kBf16, m, cols);
}

GemmProblem BenchLayer::problem(Order order, int64_t m, Linear linear, int copy) const {
  const Weight& w = weights_[linear];
  const auto [n, k] = w.shape;
  GemmProblem p;
  p.order = order;
  p.a = ConstView(quantized_.data(), Dtype::kE4m3, m, k);
  p.b = ConstView(static_cast<const std::byte*>(w.codes.data()) + copy * n * k, Dtype::kE4m3, n, k);
  p.scale_a = Scales::per_row(static_cast<const float*>(scales_.data()), m);
  p.scale_b = Scales::per_row(static_cast<const float*>(w.scales.data()), n);
  p.out = bf16(outputs_[linear], m, n);
  return p;
}

// Every layer reads the same input, so that all copies and replays give the same bits.
void BenchLayer::enqueue(int64_t m, int copy, bool fused, const Launch& producer, const Call& call) const {
  const int64_t hidden = weights_[kQkv].shape.k, wide = weights_[kDown].shape.k;
  float* scale = static_cast<float*>(scales_.data());
  const auto q = [&](int64_t cols) { return View(quantized_.data(), Dtype::kE4m3, m, cols); };
  const auto norm = [&](const Memory& x, const Memory& residual) {
    RmsNorm norm;
    norm.x = bf16(x, m, hidden);
    norm.weight = bf16(norm_weight_, 1, hidden);
    norm.residual = bf16(residual, m, hidden);
    norm.residual_out = bf16(hidden_, m, hidden);
    if (fused) return rms_norm_quantize(norm, q(hidden), scale, nullptr, producer);
    const View y = bf16(unquantized_, m, hidden);
    rms_norm(norm, y, producer);
    quantize_per_token(y, q(hidden), scale, nullptr, producer);
  };
  norm(x_, residual_);
  call(kQkv, copy);
  const int64_t heads = weights_[kO].shape.k;
  quantize_per_token(bf16(attention_, m, heads), q(heads), scale, nullptr, producer);
  call(kO, copy);
  norm(outputs_[kO], hidden_);
  call(kGateUp, copy);
  const View gate_up = bf16(outputs_[kGateUp], m, 2 * wide);
  if (fused) {
    silu_mul_quantize(gate_up, q(wide), scale, nullptr, producer);
  } else {
    const View y = bf16(unquantized_, m, wide);
    silu_mul(gate_up, y, producer);
    quantize_per_token(y, q(wide), scale, nullptr, producer);
  }
  call(kDown, copy);
}

BenchLayer::Call BenchLayer::rows(Order order, int64_t m, Overlap overlap) const {
  std::array<Plan, 4> plans;
  for (Linear i : kLinears) plans[i] = choose(place_.device(), order, m, weights_[i].shape.n, weights_[i].shape.k);
  Launch launch = launch_;
  launch.overlap = overlap;
  return [=, this](Linear linear, int copy) { gemm(problem(order, m, linear, copy), plans[linear], launch); };
}

BenchLayer::Call BenchLayer::fixed_tiles(int64_t m) const {
  std::array<Plan, 4> plans;
  for (Linear i : kLinears) {
    const auto [n, k] = weights_[i].shape;
    plans[i] = choose_named(place_.device(), fixed_tile(n), m, n, k);
  }
  return [=, this](Linear linear, int copy) {
    gemm(problem(Order::kHopperFast, m, linear, copy), plans[linear], launch_);
  };
}

// The fastest of the library's suggestions for each linear.
BenchLayer::Call BenchLayer::cublaslt(Order order, int64_t m, const CublasLt& library) {
  std::array<std::shared_ptr<CublasLtMatmul>, 4> matmuls;
  std::array<int, 4> fastest{};
  const LtCall how{spec(order).promote_every == 0, true, kSuggestions, kWorkspaceBytes};
  for (Linear linear : kLinears) {
    const auto matmul = std::make_shared<CublasLtMatmul>(library, problem(order, m, linear, 0), how);
    std::vector<Enqueue> calls;
    std::vector<int> accepted;
    for (int i = 0; i < matmul->size(); ++i) {
      const Enqueue call = [=, this](int copy) { matmul->run(i, problem(order, m, linear, copy).b.data, launch_); };
      if (!accepts(place_, call)) continue;
      calls.push_back(call);
      accepted.push_back(i);
    }
    if (calls.empty()) return nullptr;
    const std::vector<double> us = time_in_turns(place_, kFirstLookCalls, copies_, kFirstLookRounds, calls);
    fastest[linear] = accepted[static_cast<size_t>(std::min_element(us.begin(), us.end()) - us.begin())];
    matmuls[linear] = matmul;
  }
  return [=, this](Linear linear, int copy) {
    matmuls[linear]->run(fastest[linear], problem(order, m, linear, copy).b.data, launch_);
  };
}

const Memory& BenchLayer::reference(Order order) {
  const auto [at, is_new] = references_.try_emplace(order);
  if (is_new) {
    enqueue(max_m_, 0, true, launch_, rows(order, max_m_, Overlap::kNone));
    place_.synchronize();
    std::swap(at->second, outputs_[kDown]);
    outputs_[kDown] = Memory(place_, at->second.size());
  }
  return at->second;
}

std::vector<LayerResult> BenchLayer::run(Order order, int64_t m, const BenchOptions& options) {
  const Memory& want = reference(order);
  std::vector<Side> sides;
  const auto add = [&](const char* kernel, bool fused, Overlap overlap, const Call& call) {
    Launch producer = launch_;
    producer.overlap = overlap;
    sides.push_back({kernel, [=, this](int copy) { enqueue(m, copy, fused, producer, call); }});
  };
  add("samebits", true, options.overlap, rows(order, m, options.overlap));
  add("samebits-unfused", false, Overlap::kNone, rows(order, m, Overlap::kNone));
  if (!place_.is_cpu() && order == Order::kHopperFast) add("fixed-tile", false, Overlap::kNone, fixed_tiles(m));
  if (const Call call = options.cublaslt ? cublaslt(order, m, *options.cublaslt) : nullptr)
    add("cublaslt", false, Overlap::kNone, call);

  Comparison comparison(place_);
  const int64_t hidden = weights_[kDown].shape.n;
  std::vector<LayerResult> results;
  std::vector<Enqueue> calls;
  for (const Side& side : sides) {
    outputs_[kDown].fill(0xff);
    side.enqueue(0);
    place_.synchronize();
    const bool same = comparison(bf16(outputs_[kDown], m, hidden), bf16(want, m, hidden), 0).count == 0;
    results.push_back({side.kernel, 0, same});
    calls.push_back(side.enqueue);
  }
  const double ideal_us = std::max(2e-9 * static_cast<double>(m), 1 / 3e6) * static_cast<double>(weight_bytes());
  const std::vector<double> us =
      time_in_turns(place_, calls_a_graph(ideal_us, copies_), copies_, options.rounds, calls);
  for (size_t i = 0; i < us.size(); ++i) results[i].us = us[i];
  return results;
}

}  // namespace samebits::cli
