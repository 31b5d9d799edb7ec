// See bench_run.h.
#include "cli/bench_run.h"

#include <algorithm>
#include <memory>

namespace samebits::cli {
namespace {

constexpr size_t kTorchWorkspaceBytes = 32 << 20;  // what torch gives cuBLASLt on compute capability 9.0 (its CUDABlas)
constexpr int64_t kSeedNarrow = 1280;              // N up to which vLLM's batch-invariant mode takes its 64x16x256 tile
constexpr double kFarBehind = 1.15;  // a suggestion this much slower than the best of its kind is not timed again
constexpr int kFirstLookRounds = 2;

// The row called `row`, or nothing where it does not take the shape.
std::optional<Plan> plan_of(const DeviceInfo& device, std::string_view row, int64_t m, Shape shape) {
  try {
    return choose_named(device, row, m, shape.n, shape.k);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    return std::nullopt;
  }
}

}  // namespace

std::string_view fixed_tile(int64_t n) { return n <= kSeedNarrow ? "seed64x16x256" : "seed64x64x256"; }

// One thing to time, and the outputs at the largest M that its own are compared with.
struct BenchShape::Side {
  BenchResult result;
  Enqueue enqueue;
  const Memory* order_bits;
  const Memory* own_bits = nullptr;
};

BenchShape::BenchShape(const Place& place, Shape shape, int64_t max_m, Mix mix)
    : place_(place),
      operands_(place, shape, max_m, mix),
      max_m_(max_m),
      out_(place, static_cast<size_t>(max_m * shape.n) * 2) {
  launch_ = plain_launch(place, workspace_);
}

// Made by the row that a device without a certificate is held to.
const Memory& BenchShape::reference(Order order, ScaleKind scales) {
  if (reference_order_ != order) references_.clear();
  reference_order_ = order;
  const auto [at, is_new] = references_.try_emplace(scales);
  if (is_new) {
    at->second = Memory(place_, out_.size());
    DeviceInfo held = place_.device();
    held.certified = false;
    const auto [n, k] = operands_.shape();
    gemm(operands_.problem(order, max_m_, 0, at->second.data(), scales),
         choose(held, order, max_m_, n, k, Dtype::kBf16, nullptr, operands_.mix().weight_only()), launch_);
    place_.synchronize();
  }
  return at->second;
}

const Memory* BenchShape::own_reference(const char* kernel, const CublasLt& library, ScaleKind scales,
                                        const LtCall& call) {
  const auto [at, is_new] = own_references_.try_emplace(kernel);
  if (is_new) {
    Memory output(place_, out_.size());
    const GemmProblem p = operands_.problem(*reference_order_, max_m_, 0, output.data(), scales);
    const CublasLtMatmul matmul(library, p, call);
    if (matmul.size() > 0 && accepts(place_, [&](int) { matmul.run(0, p.b.data, launch_); }))
      at->second = std::move(output);
  }
  return at->second.size() ? &at->second : nullptr;
}

void BenchShape::add_rows(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides) {
  const DeviceInfo& device = place_.device();
  const Shape shape = operands_.shape();
  const Memory& bits = reference(order, ScaleKind::kPerRow);
  const auto add = [&](std::string kernel, const Plan& plan, Overlap overlap) {
    Launch launch = launch_;
    launch.overlap = overlap;
    BenchResult result{std::move(kernel), std::string(plan.kernel)};
    if (!device.is_cpu()) result.overlap = overlap;
    result.tile = plan.tile;
    sides.push_back(
        {result, [=, this](int copy) { gemm(operands_.problem(order, m, copy, out_.data()), plan, launch); }, &bits});
  };
  const bool weight_only = operands_.mix().weight_only();
  const std::string_view chosen =
      choose(device, order, m, shape.n, shape.k, Dtype::kBf16, options.rules, weight_only).kernel;
  for (std::string_view row : kernels(device, order)) {
    const bool wanted = options.every_row || std::count(options.rows.begin(), options.rows.end(), row) > 0;
    const auto plan = wanted || row == chosen ? plan_of(device, row, m, shape) : std::nullopt;
    if (plan && plan->tile && plan->tile->weight_only != weight_only) continue;
    if (plan) add(wanted ? "samebits:" + std::string(row) : "samebits", *plan, options.overlap);
    if (const auto fixed = row == fixed_tile(shape.n) ? plan_of(device, row, m, shape) : std::nullopt)
      add("fixed-tile", *fixed, Overlap::kNone);
  }
}

void BenchShape::add_cublaslt(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides) {
  if (!options.cublaslt || spec(order).scale_block) return;  // bench/block.py times those with block scales
  const bool fast = spec(order).promote_every == 0;
  const auto add = [&](const char* kernel, ScaleKind scales, const LtCall& call) {
    const Memory* own = m < max_m_ ? own_reference(kernel, *options.cublaslt, scales, call) : nullptr;
    const auto matmul =
        std::make_shared<CublasLtMatmul>(*options.cublaslt, operands_.problem(order, m, 0, out_.data(), scales), call);
    for (int i = 0; i < matmul->size(); ++i) {
      BenchResult result{kernel, ""};
      result.split_k = matmul->split_k(i);
      sides.push_back(
          {result, [=, this](int copy) { matmul->run(i, operands_.problem(order, m, copy, nullptr).b.data, launch_); },
           &reference(order, scales), own});
    }
  };
  if (operands_.mix() == Mix{Dtype::kBf16, Dtype::kBf16})
    return add("cublaslt-bf16", ScaleKind::kPerRow, {false, false, 8, kWorkspaceBytes});
  if (operands_.mix() != Mix{}) return;  // it has no product of mixed types
  add(fast ? "cublaslt-outer" : "cublaslt-outer-slow", ScaleKind::kPerRow, {fast, true, 8, kWorkspaceBytes});
  // torch._scaled_mm with one scale a tensor: the first suggestion, fast accumulation.
  if (fast) add("cublaslt-tensor", ScaleKind::kPerTensor, {true, false, 1, kTorchWorkspaceBytes});
}

// Runs each side once and compares all it wrote; drops a side that its own library refuses.
void BenchShape::compare(int64_t m, std::vector<Side>& sides) {
  Comparison comparison(place_);
  const auto same_as = [&](const Memory& bits) {
    const int64_t n = operands_.shape().n;
    return comparison(ConstView(out_.data(), Dtype::kBf16, m, n), ConstView(bits.data(), Dtype::kBf16, m, n), 0)
               .count == 0;
  };
  const auto refused = [&](Side& side) {
    out_.fill(0xff);
    if (!accepts(place_, side.enqueue)) return true;
    side.result.same_bits = same_as(*side.order_bits);
    if (side.own_bits) side.result.invariant = same_as(*side.own_bits);
    return false;
  };
  std::erase_if(sides, refused);
}

int BenchShape::launches(int64_t m) const {
  const double n = static_cast<double>(operands_.shape().n), k = static_cast<double>(operands_.shape().k);
  const double flops = operands_.mix().a == Dtype::kE4m3 ? 1e9 : 0.7e9;  // 1 and 0.7 PFLOP/s, 3 TB/s
  const double ideal_us =
      std::max(2.0 * static_cast<double>(m) * n * k / flops, static_cast<double>(operands_.weight_bytes()) / 3e6);
  return calls_a_graph(ideal_us, operands_.copies());
}

void BenchShape::drop_slow_suggestions(int launches, std::vector<Side>& sides) {
  const auto is_peer = [](const Side& side) {
    return side.result.kernel.starts_with("cublaslt-") && side.result.kernel != "cublaslt-tensor";
  };
  std::vector<Enqueue> peers;
  for (const Side& side : sides)
    if (is_peer(side)) peers.push_back(side.enqueue);
  if (peers.size() < 2) return;
  const std::vector<double> us =
      time_in_turns(place_, std::max(1, launches / 4), operands_.copies(), kFirstLookRounds, peers);
  const double best = *std::min_element(us.begin(), us.end());
  size_t next = 0;
  std::erase_if(sides, [&](const Side& side) { return is_peer(side) && us[next++] > kFarBehind * best; });
}

std::vector<BenchResult> BenchShape::run(Order order, int64_t m, const BenchOptions& options) {
  std::vector<Side> sides;
  add_rows(order, m, options, sides);
  add_cublaslt(order, m, options, sides);
  compare(m, sides);
  drop_slow_suggestions(launches(m), sides);
  std::vector<Enqueue> calls;
  for (const Side& side : sides) calls.push_back(side.enqueue);
  const std::vector<double> us = time_in_turns(place_, launches(m), operands_.copies(), options.rounds, calls);

  std::vector<BenchResult> results;
  for (size_t i = 0; i < sides.size(); ++i) {
    BenchResult& result = sides[i].result;
    result.us = us[i];
    result.weight = operands_.mix().b;
    const auto known =
        std::find_if(results.begin(), results.end(), [&](const BenchResult& r) { return r.kernel == result.kernel; });
    if (known == results.end())
      results.push_back(result);
    else if (result.us < known->us)
      *known = result;  // the best of cuBLASLt's suggestions
  }
  // What choose() picks is a row too: the same timing under a second name.
  const auto [n, k] = operands_.shape();
  const Plan plan = choose(place_.device(), order, m, n, k, Dtype::kBf16, options.rules, operands_.mix().weight_only());
  const std::string chosen = "samebits:" + std::string(plan.kernel);
  for (size_t i = 0; i < results.size(); ++i)
    if (results[i].kernel == chosen) {
      BenchResult copy = results[i];
      copy.kernel = "samebits";
      results.push_back(copy);
      break;
    }
  for (BenchResult& r : results)
    if (r.kernel.starts_with("samebits:")) r.row.clear();
  return results;
}

}  // namespace samebits::cli
