// Minutes of a GPU under load: threads with streams of their own, eager calls and graphs, random shapes, rows and
// overlap, every output compared with the CPU's. Run by hand on a machine with a GPU:
//
//   samebits_stress --seconds 300 --threads 8
//
// Exit code 0: no bit differs; 1: some do; 3: no GPU with rows.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>

#include "cuda/timing.h"
#include "place.h"

namespace samebits::testing {
namespace {

using Clock = std::chrono::steady_clock;

/// A problem on the device and what the CPU says of it: read by all threads, written by none.
struct Case {
  HostProblem host;
  OnDevice on_device;
  cuda::Buffer want;
  std::vector<std::string_view> kernels;
  GemmProblem problem;  // its output is the thread's own

  Case(const DeviceInfo& device, HostProblem p)
      : host(std::move(p)), on_device(device, host), kernels(rows(device, host.order, host.out, weight_only())) {
    const Matrix expected = expected_on(device, host);
    want = cuda::Buffer(expected.bytes.size());
    want.upload(expected.bytes.data(), expected.bytes.size());
    problem = on_device.problem();
  }
  bool weight_only() const { return host.b.dtype != host.a.dtype; }
  int64_t outputs() const { return problem.m() * problem.n(); }
};

/// A size between `low` and `high` as often in each octave, a multiple of `step`.
int64_t size_between(Random& random, int64_t low, int64_t high, int64_t step) {
  const double octaves = std::log2(static_cast<double>(high) / static_cast<double>(low));
  const double x = static_cast<double>(low) * std::exp2(octaves * random.below(1 << 20) / (1 << 20));
  return std::max(step, static_cast<int64_t>(x) / step * step);
}

HostProblem any_problem(Random& random, const DeviceInfo& device) {
  const std::vector<Order> orders = orders_on(device);
  const Order order = orders[random.below(static_cast<uint32_t>(orders.size()))];
  const bool half = spec(order).operands == Operands::kHalf;
  // What the CPU computes in about a second.
  const double most = half ? 0x1p31 : 0x1p34;
  const int64_t step = half ? 8 : 16;
  int64_t m, n, k;
  do {
    m = size_between(random, 1, 8192, 1), n = size_between(random, step, 16384, step);
    k = size_between(random, step, 16384, step);
  } while (static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) > most);
  const bool fp32 = random.below(8) == 0 && !rows(device, order, Dtype::kF32).empty();
  const Dtype out = fp32 ? Dtype::kF32 : random.below(2) ? Dtype::kBf16 : Dtype::kF16;
  const Data kind = kAllData[random.below(std::size(kAllData))];
  HostProblem p = random_problem(random, order, kind, m, n, k, out, random.below(2) != 0);
  if (half)
    std::tie(p.a, p.b) = half_operands(random, half_data(kind), random.below(2) ? Dtype::kBf16 : Dtype::kF16, m, n, k);
  if (half && random.below(2) && !rows(device, order, out, true).empty())
    p.b = fp8_matrix(random, kind, n, k, Dtype::kE4m3, (k + 15) / 16 * 16);
  return p;
}

struct Totals {
  std::atomic<uint64_t> calls = 0, outputs = 0, different = 0;
  std::mutex mutex;  // of what is printed
};

/// One thread's work until the deadline: a few calls on each of its streams, then all of their outputs.
class Worker {
 public:
  Worker(const DeviceInfo& device, const std::vector<std::unique_ptr<Case>>& cases, uint64_t seed, Totals& totals)
      : device_(device), cases_(cases), random_{seed}, totals_(totals) {
    size_t most = 0;
    for (const auto& c : cases) most = std::max(most, c->want.size());
    for (Lane& lane : lanes_) lane.out = cuda::Buffer(most), lane.difference = cuda::Buffer(sizeof(cuda::Difference));
  }

  void run_until(Clock::time_point end) {
    while (Clock::now() < end) {
      for (Lane& lane : lanes_) enqueue(lane);
      for (Lane& lane : lanes_) collect(lane);
    }
  }

 private:
  struct Lane {
    cuda::Stream stream;
    cuda::Buffer out, difference;
    const Case* running = nullptr;
    std::string what;
  };

  void enqueue(Lane& lane) {
    const Case& c = *cases_[random_.below(static_cast<uint32_t>(cases_.size()))];
    GemmProblem p = c.problem;
    p.out.data = lane.out.data();
    const bool chosen = random_.below(2) != 0, graph = random_.below(4) == 0;
    const std::string_view kernel = c.kernels[random_.below(static_cast<uint32_t>(c.kernels.size()))];
    const Plan plan = chosen ? choose(device_, p.order, p.m(), p.n(), p.k(), p.out.dtype, nullptr, c.weight_only())
                             : choose_named(device_, kernel, p.m(), p.n(), p.k(), p.out.dtype);
    const auto overlap = static_cast<Overlap>(random_.below(4));  // kWeight and kChain too: nobody writes a weight
    const Launch launch{.device = &device_, .stream = lane.stream.get(), .overlap = overlap};
    const int calls = 1 + static_cast<int>(random_.below(4));
    lane.out.fill(0x5a, launch.stream);
    lane.difference.fill(0, launch.stream);
    if (graph) {
      cuda::Replay replay(
          calls, [&](int) { gemm(p, plan, launch); }, launch.stream);
      replay.microseconds();
    } else {
      for (int i = 0; i < calls; ++i) gemm(p, plan, launch);
    }
    cuda::compare_rows(p.out, ConstView(c.want.data(), p.out.dtype, p.m(), p.n()), 0,
                       static_cast<cuda::Difference*>(lane.difference.data()), launch.stream);
    lane.running = &c;
    lane.what = fmt::format("{} {} m={} n={} k={} {} overlap {} {}", plan.kernel, name(p.order), p.m(), p.n(), p.k(),
                            name(p.out.dtype), static_cast<int>(overlap), graph ? "graph" : "eager");
    totals_.calls += static_cast<uint64_t>(calls);
  }

  void collect(Lane& lane) {
    lane.stream.synchronize();
    cuda::Difference found{};
    lane.difference.download(&found, sizeof found, 0, lane.stream.get());
    totals_.outputs += static_cast<uint64_t>(lane.running->outputs());
    totals_.different += found.count;
    if (found.count == 0) return;
    const std::lock_guard lock(totals_.mutex);
    fmt::print("{} of {} outputs differ: {}\n", found.count, lane.running->outputs(), lane.what);
  }

  const DeviceInfo& device_;
  const std::vector<std::unique_ptr<Case>>& cases_;
  Random random_;
  Totals& totals_;
  Lane lanes_[3];
};

/// The control: an output that no kernel wrote must be found to differ.
void check_that_differences_are_found(const Case& c) {
  cuda::Buffer out(c.want.size()), difference(sizeof(cuda::Difference));
  out.fill(0x5a), difference.fill(0);
  const auto view = [&](const cuda::Buffer& b) {
    return ConstView(b.data(), c.host.out, c.problem.m(), c.problem.n());
  };
  cuda::compare_rows(view(out), view(c.want), 0, static_cast<cuda::Difference*>(difference.data()), nullptr);
  cuda::Difference found{};
  difference.download(&found, sizeof found);
  if (found.count == 0) throw Error(ErrorCode::kDeviceFault, "the control failed: an unwritten output compared equal");
}

/// Runs one device; the CPU's answers first, which is most of the start.
void stress(const DeviceInfo& device, int seconds, int threads, int count, uint64_t seed, Totals& totals) {
  cuda::set_device(device.ordinal);
  Random random{seed};
  std::vector<std::unique_ptr<Case>> cases;
  for (int i = 0; i < count; ++i) cases.push_back(std::make_unique<Case>(device, any_problem(random, device)));
  check_that_differences_are_found(*cases.front());
  fmt::print("{}: {} problems computed on the CPU\n", device.name, count);
  const auto end = Clock::now() + std::chrono::seconds(seconds);
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      try {
        cuda::set_device(device.ordinal);
        Worker(device, cases, seed + 1000 + static_cast<uint64_t>(t), totals).run_until(end);
      } catch (const std::exception& e) {
        ++totals.different;
        const std::lock_guard lock(totals.mutex);
        fmt::print("{}: thread {} stopped: {}\n", device.name, t, e.what());
      }
    });
  while (Clock::now() < end) {
    std::this_thread::sleep_for(std::min<Clock::duration>(std::chrono::seconds(10), end - Clock::now()));
    fmt::print("{}: {} calls, {} outputs compared, {} differ\n", device.name, totals.calls.load(),
               totals.outputs.load(), totals.different.load());
    std::fflush(stdout);
  }
  for (std::thread& worker : workers) worker.join();
}

int run_stress(int argc, char** argv) {
  int seconds = 300, threads = 8, problems = 160;
  uint64_t seed = 1;
  CLI::App app("samebits_stress: GPUs under load, every output compared with the CPU's");
  app.add_option("--seconds", seconds, "how long")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "threads of each GPU")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--problems", problems, "problems of each GPU")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--seed", seed, "of the problems and of what is done with them")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto devices = gpus();
  if (devices.empty()) {
    fmt::print("no GPU that this build has rows for\n");
    return 3;
  }
  Totals totals;
  std::vector<std::thread> running;
  for (const DeviceInfo* device : devices)
    running.emplace_back(
        [&, device] { stress(*device, seconds, threads, problems, seed + 100000 * device->ordinal, totals); });
  for (std::thread& device : running) device.join();
  fmt::print("{} of {} outputs differ; {} calls, {} GPUs, {} threads each, {} s, seed {}\n", totals.different.load(),
             totals.outputs.load(), totals.calls.load(), devices.size(), threads, seconds, seed);
  return totals.different != 0;
}

}  // namespace
}  // namespace samebits::testing

int main(int argc, char** argv) { return samebits::testing::run_stress(argc, argv); }
