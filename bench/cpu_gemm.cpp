// Speed of the CPU backend in MAC/s: `samebits_cpu_bench [Google Benchmark options]`. For bench/cpu_vs_mmaemu.py also
// `samebits_cpu_bench --multiply A B OUT M N K ORDER THREADS RUNS`: reads codes (e4m3, or bf16 for a 16-bit Order) from
// the files A [M,K] and B [N,K], writes the FP32 accumulators [M,N] to OUT, and prints the seconds of each run as a
// JSON list.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <chrono>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "numerics/formats.h"
#include "samebits/gemm.h"

namespace {

using namespace samebits;

const float kOne = 1.0f;

Dtype dtype_of(Order order) { return spec(order).operands == Operands::kHalf ? Dtype::kBf16 : Dtype::kE4m3; }

GemmProblem problem_of(Order order, const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, int64_t k, View out) {
  GemmProblem p;
  p.order = order;
  const Dtype dtype = dtype_of(order);
  p.a = ConstView(a.data(), dtype, out.rows, k);
  p.b = ConstView(b.data(), dtype, out.cols, k);
  p.scale_a = p.scale_b = Scales::per_tensor(&kOne);
  p.out = out;
  return p;
}

// Every finite e4m3 code, from a linear congruential generator.
std::vector<uint8_t> random_codes(int64_t count, uint64_t seed) {
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (uint8_t& code : codes) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    code = static_cast<uint8_t>(seed >> 56);
    if ((code & 0x7f) == 0x7f) code = 0;
  }
  return codes;
}

// The same numbers in bf16.
std::vector<uint8_t> widen(const std::vector<uint8_t>& codes) {
  std::vector<uint8_t> wide(2 * codes.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    const auto code = static_cast<uint16_t>(encode(kFormatBf16, decode(kFormatE4m3, codes[i])));
    std::memcpy(wide.data() + 2 * i, &code, sizeof code);
  }
  return wide;
}

void BM_CpuGemm(benchmark::State& state, Order order, int64_t m, int64_t n, int64_t k) {
  std::vector<uint8_t> a = random_codes(m * k, 1), b = random_codes(n * k, 2);
  if (dtype_of(order) == Dtype::kBf16) a = widen(a), b = widen(b);
  std::vector<uint16_t> out(static_cast<size_t>(m * n));
  const GemmProblem problem = problem_of(order, a, b, k, View(out.data(), Dtype::kBf16, m, n));
  for (auto _ : state) gemm(problem);
  state.counters["MAC/s"] =
      benchmark::Counter(static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}

std::vector<uint8_t> read_file(const char* path, int64_t bytes) {
  std::vector<uint8_t> data(static_cast<size_t>(bytes));
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(data.data()), bytes))
    throw std::runtime_error(fmt::format("cannot read {} bytes of {}", bytes, path));
  return data;
}

void multiply(char** arg) {
  const int64_t m = std::stoll(arg[3]), n = std::stoll(arg[4]), k = std::stoll(arg[5]);
  const Order order = parse_order(arg[6]);
  const auto size = static_cast<int64_t>(size_of(dtype_of(order)));
  const std::vector<uint8_t> a = read_file(arg[0], m * k * size), b = read_file(arg[1], n * k * size);
  std::vector<float> out(static_cast<size_t>(m * n));
  const GemmProblem problem = problem_of(order, a, b, k, View(out.data(), Dtype::kF32, m, n));
  Launch launch;
  launch.threads = std::stoi(arg[7]);
  std::vector<double> seconds(std::stoul(arg[8]));
  for (double& s : seconds) {
    const auto start = std::chrono::steady_clock::now();
    gemm(problem, launch);
    s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::ofstream file(arg[2], std::ios::binary);
  if (!file.write(reinterpret_cast<const char*>(out.data()), m * n * 4).flush())
    throw std::runtime_error(fmt::format("cannot write {}", arg[2]));
  fmt::print("[{}]\n", fmt::join(seconds, ", "));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--multiply") == 0) {
    if (argc != 11) return fmt::print(stderr, "--multiply A B OUT M N K ORDER THREADS RUNS\n"), 2;
    try {
      return multiply(argv + 2), 0;
    } catch (const std::exception& e) {
      return fmt::print(stderr, "{}\n", e.what()), 2;
    }
  }
  for (const OrderSpec& order : kOrders)
    for (const auto [m, n, k] : {std::array<int64_t, 3>{64, 5760, 1920}, {256, 5760, 1920}, {1, 4096, 4096}})
      benchmark::RegisterBenchmark(fmt::format("{}/{},{},{}", order.name, m, n, k).c_str(), BM_CpuGemm, order.order, m,
                                   n, k)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
