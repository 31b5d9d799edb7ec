// See bench_run.h.
#include "cli/bench_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>

#include "core/generator.h"
#include "cuda/timing.h"
#include "numerics/formats.h"

namespace samebits::cli {
namespace {

constexpr int64_t kRotateBytes = 200 << 20;    // four times the 50 MB of L2 that an H100 and an H200 have
constexpr int64_t kWorkspaceBytes = 64 << 20;  // for cuBLASLt; our rows ask for less
constexpr int64_t kSeedNarrow = 1280;          // N up to which vLLM's batch-invariant mode takes its 64x16x256 tile
constexpr double kGraphMicroseconds = 2000;    // a replay longer than this gains no precision

// FP8 codes as quantization leaves them: about normal, standard deviation 60. Zeros or constants would draw less power
// and flatter the clocks.
std::vector<uint8_t> random_codes(size_t count, uint64_t key) {
  std::vector<uint8_t> pool(1 << 16);
  for (size_t i = 0; i < pool.size(); ++i) {
    const float z = static_cast<float>(generated_integer(key, 0, static_cast<int64_t>(i), 0)) / 37837.0f;
    pool[i] = static_cast<uint8_t>(encode(kFormatE4m3, 60.0f * z));
  }
  std::vector<uint8_t> codes(count);
  for (size_t i = 0; i < count; i += 4) {
    const uint64_t r = mix(key + 0x9e3779b97f4a7c15ull * i);
    for (size_t j = 0; j < std::min<size_t>(4, count - i); ++j) codes[i + j] = pool[(r >> (16 * j)) & 0xffff];
  }
  return codes;
}

std::vector<float> random_scales(int64_t count, uint64_t key) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (size_t i = 0; i < scales.size(); ++i)
    scales[i] = 0.001f + static_cast<float>(mix(key + i) >> 40) * (0.01f / (1 << 24));
  return scales;
}

template <class T>
Memory uploaded(const Place& place, const std::vector<T>& values, int copies = 1) {
  const size_t bytes = values.size() * sizeof(T);
  Memory memory(place, bytes * static_cast<size_t>(copies));
  for (int i = 0; i < copies; ++i) memory.upload(values.data(), bytes, bytes * static_cast<size_t>(i));
  return memory;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double microseconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

int copies_of(const DeviceInfo& device, int64_t weight_bytes) {
  return device.is_cpu() ? 1 : static_cast<int>(std::clamp<int64_t>(kRotateBytes / weight_bytes + 1, 2, 64));
}

std::string_view fixed_tile(int64_t n) { return n <= kSeedNarrow ? "seed64x16x256" : "seed64x64x256"; }

}  // namespace

// One thing to time. enqueue(copy) launches it on the weight's copy `copy`.
struct BenchShape::Side {
  std::string kernel;
  std::function<void(int)> enqueue;
  bool same_bits = false;
  std::vector<double> us;
};

BenchShape::BenchShape(const Place& place, Shape shape, int64_t max_m) : place_(place), shape_(shape), max_m_(max_m) {
  const int64_t weight_bytes = shape.n * shape.k;
  copies_ = copies_of(place.device(), weight_bytes);
  a_ = uploaded(place, random_codes(static_cast<size_t>(max_m * shape.k), 1));
  b_ = uploaded(place, random_codes(static_cast<size_t>(weight_bytes), 2), copies_);
  scale_a_ = uploaded(place, random_scales(max_m, 3));
  scale_b_ = uploaded(place, random_scales(shape.n, 4));
  out_ = Memory(place, static_cast<size_t>(max_m * shape.n) * 2);
  reference_ = Memory(place, out_.size());
  if (!place.is_cpu()) workspace_ = Memory(place, kWorkspaceBytes);
  launch_.device = &place.device();
  launch_.stream = place.stream();
  launch_.workspace = workspace_.data();
  launch_.workspace_bytes = static_cast<int64_t>(workspace_.size());
}

GemmProblem BenchShape::problem(Order order, int64_t m, int copy, void* out) const {
  const auto* weights = static_cast<const std::byte*>(b_.data());
  GemmProblem p;
  p.order = order;
  p.a = ConstView(a_.data(), Dtype::kE4m3, m, shape_.k);
  p.b = ConstView(weights + copy * shape_.n * shape_.k, Dtype::kE4m3, shape_.n, shape_.k);
  p.scale_a = Scales::per_row(static_cast<const float*>(scale_a_.data()), m);
  p.scale_b = Scales::per_row(static_cast<const float*>(scale_b_.data()), shape_.n);
  p.out = View(out, Dtype::kBf16, m, shape_.n);
  return p;
}

void BenchShape::make_reference(Order order) {
  if (reference_order_ == order) return;
  const std::string_view first = kernels(place_.device(), order).at(0);
  gemm(problem(order, max_m_, 0, reference_.data()), choose_named(place_.device(), first, max_m_, shape_.n, shape_.k),
       launch_);
  place_.synchronize();
  reference_order_ = order;
}

void BenchShape::add_rows(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides) {
  const DeviceInfo& device = place_.device();
  const std::string_view chosen = choose(device, order, m, shape_.n, shape_.k, Dtype::kBf16, options.rules).kernel;
  for (std::string_view row : kernels(device, order)) {
    const bool wanted = options.rows.empty() || std::count(options.rows.begin(), options.rows.end(), row) > 0;
    if (!wanted && row != chosen && row != fixed_tile(shape_.n)) continue;
    const Plan plan = choose_named(device, row, m, shape_.n, shape_.k);
    sides.push_back({"samebits:" + std::string(row),
                     [=, this](int copy) { gemm(problem(order, m, copy, out_.data()), plan, launch_); },
                     false,
                     {}});
  }
}

void BenchShape::add_cublaslt(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides) {
  if (!options.cublaslt) return;
  const bool fast = spec(order).promote_every == 0;
  const GemmProblem p = problem(order, m, 0, out_.data());
  const auto matmul = std::make_shared<CublasLtMatmul>(*options.cublaslt, p, fast, kWorkspaceBytes);
  for (int i = 0; i < matmul->size(); ++i)
    sides.push_back({fast ? "cublaslt-outer" : "cublaslt-outer-slow",
                     [=, this](int copy) { matmul->run(i, problem(order, m, copy, nullptr).b.data, launch_); },
                     false,
                     {}});
}

// The sides take turns, so that a change of the clocks meets them all.
void BenchShape::measure(int64_t m, int rounds, std::vector<Side>& sides) {
  if (place_.is_cpu()) {
    for (int round = 0; round < rounds; ++round)
      for (Side& side : sides) side.us.push_back(microseconds_of([&] { side.enqueue(0); }));
    return;
  }
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(shape_.n) * static_cast<double>(shape_.k);
  const double ideal_us = std::max(flops / 1e9, static_cast<double>(shape_.n * shape_.k) / 3e6);  // 1 PFLOP/s, 3 TB/s
  int launches = copies_ * std::max(1, 32 / copies_);
  if (ideal_us * launches > kGraphMicroseconds) launches = std::max(4, static_cast<int>(kGraphMicroseconds / ideal_us));
  std::vector<cuda::Replay> replays;
  for (Side& side : sides)
    replays.emplace_back(
        launches, [&](int i) { side.enqueue(i % copies_); }, place_.stream());
  for (const cuda::Replay& replay : replays) replay.microseconds();
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < sides.size(); ++i) sides[i].us.push_back(replays[i].microseconds());
}

// Runs each side once and compares all it wrote; drops a side that its own library refuses.
void BenchShape::compare(int64_t m, std::vector<Side>& sides) {
  Comparison comparison(place_);
  const ConstView want(reference_.data(), Dtype::kBf16, m, shape_.n), got(out_.data(), Dtype::kBf16, m, shape_.n);
  const auto refused = [&](Side& side) {
    out_.fill(0xff);
    try {
      side.enqueue(0);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      return true;
    }
    place_.synchronize();
    side.same_bits = comparison(got, want, 0).count == 0;
    return false;
  };
  std::erase_if(sides, refused);
}

std::vector<BenchResult> BenchShape::run(Order order, int64_t m, const BenchOptions& options) {
  make_reference(order);
  std::vector<Side> sides;
  add_rows(order, m, options, sides);
  add_cublaslt(order, m, options, sides);
  compare(m, sides);
  measure(m, options.rounds, sides);

  std::vector<BenchResult> results;
  for (const Side& side : sides) {
    const BenchResult result{side.kernel, "", median(side.us), side.same_bits};
    const auto known =
        std::find_if(results.begin(), results.end(), [&](const BenchResult& r) { return r.kernel == result.kernel; });
    if (known == results.end())
      results.push_back(result);
    else if (result.us < known->us)
      *known = result;  // the best of cuBLASLt's suggestions
  }
  // What choose() picks and the fixed tile are rows too: the same timing under a second name.
  const auto rename = [&](std::string_view row, const char* kernel) {
    for (size_t i = 0; i < results.size(); ++i)
      if (results[i].kernel == "samebits:" + std::string(row))
        return results.push_back({kernel, std::string(row), results[i].us, results[i].same_bits});
  };
  rename(choose(place_.device(), order, m, shape_.n, shape_.k, Dtype::kBf16, options.rules).kernel, "samebits");
  rename(fixed_tile(shape_.n), "fixed-tile");
  return results;
}

void check_memory(const DeviceInfo& device, Shape shape, int64_t max_m) {
  // In double: the products of three numbers up to 2^31 pass 2^63.
  const double m = static_cast<double>(max_m), n = static_cast<double>(shape.n), k = static_cast<double>(shape.k);
  const double held = m * k + copies_of(device, shape.n * shape.k) * n * k + 2 * 2 * m * n;
  const double staged = device.is_cpu() ? std::max(m, n) * k : 0;  // as it is made, beside its place
  const double memory = device.is_cpu()
                            ? static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE))
                            : static_cast<double>(device.memory);
  if (held + staged > memory)
    throw Error(ErrorCode::kBadInput,
                fmt::format("m={} n={} k={} takes {:.1f} GB of memory; {} has {:.1f} GB", max_m, shape.n, shape.k,
                            (held + staged) / 1e9, describe(device), memory / 1e9));
}

std::vector<Ceiling> measure_ceilings(const Place& place) {
  if (place.is_cpu()) return {};
  constexpr size_t kBytes = size_t{2} << 30;
  constexpr int kRounds = 9;
  const auto timed = [&](int launches, const std::function<void(int)>& enqueue) {
    const cuda::Replay replay(launches, enqueue, place.stream());
    replay.microseconds();
    std::vector<double> us;
    for (int i = 0; i < kRounds; ++i) us.push_back(replay.microseconds());
    return median(us);
  };
  Memory data(place, kBytes), sink(place, 16);
  data.fill(1);
  double read = 1e30;
  for (int per_sm : {1, 2, 4, 8, 16})
    read = std::min(read, timed(1, [&](int) {
                      cuda::read_all(data.data(), kBytes, sink.data(), per_sm * place.device().sms, place.stream());
                    }));
  const double empty = timed(100, [&](int) { cuda::do_nothing(place.device().sms, place.stream()); });
  return {{"ceiling-read", read, kBytes / read * 1e-3}, {"ceiling-empty-kernel", empty, 0}};
}

}  // namespace samebits::cli
