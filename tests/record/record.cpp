// Records what this GPU returns, for tests/golden: the bare matrix unit (unit.safetensors) and the library's rows with
// their epilogue (epilogue.safetensors) or block scales (block.safetensors). Compares each call with the reference and
// says which differ. Run on a Hopper:
//   build/test/tests/samebits_record OUT_DIRECTORY
#include <fmt/format.h>

#include <ctime>
#include <deque>
#include <filesystem>

#include "io/recording.h"
#include "numerics/formats.h"
#include "numerics/reference.h"
#include "place.h"
#include "record/unit.h"

namespace samebits::record {
namespace {

using namespace samebits::testing;

/// Calls with the memory behind them.
struct Tape {
  std::deque<HostProblem> problems;
  std::deque<Matrix> outs;
  std::vector<RecordedCall> calls;
  int64_t differ = 0, outputs = 0;

  void add(HostProblem problem, Matrix out, const std::string& what) {
    problems.push_back(std::move(problem));
    outs.push_back(std::move(out));
    HostProblem& p = problems.back();
    Matrix want(p.out, p.a.rows, p.b.rows);
    const GemmProblem on_host = p.on_host(want);
    calls.push_back(
        {p.order, on_host.a, on_host.b, on_host.scale_a, on_host.scale_b, on_host.bias, outs.back().view()});
    reference_gemm(on_host);
    outputs += want.rows * want.cols;
    const auto same = same_bits(outs.back().view(), want.view());
    if (same) return;
    ++differ;
    fmt::print("call {} ({}): {}\n", calls.size() - 1, what, same.message());
  }

  void write(const std::filesystem::path& path, const DeviceInfo& device) const {
    char date[32];
    const std::time_t now = std::time(nullptr);
    std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
    write_recording(path, calls,
                    {{"device", device.name},
                     {"driver", std::to_string(device.driver)},
                     {"date", date},
                     {"command", "samebits_record DIRECTORY"}});
    fmt::print("{}: {} calls, {} outputs, {} calls differ from the reference\n", path.filename().string(), calls.size(),
               outputs, differ);
  }
};

void record_unit_call(Tape& tape, HostProblem p, const std::string& what) {
  p.out = Dtype::kF32;
  p.scale_a = p.scale_b = {1.0f};
  Matrix out(Dtype::kF32, p.a.rows, p.b.rows);
  wgmma_accumulate(p.a.view(), p.b.view(), spec(p.order).promote_every, out.as<float>());
  tape.add(std::move(p), std::move(out), what);
}

/// All mixes of operand formats, all kinds of data, K short, odd, and past a promotion.
void record_unit(const std::filesystem::path& directory, const DeviceInfo& device) {
  Tape tape;
  Random random{2026};
  const auto problem = [&](Order order, Dtype a, Dtype b, Data kind, int64_t n, int64_t k) {
    return HostProblem{order, fp8_matrix(random, kind, 64, k, a), fp8_matrix(random, kind, n, k, b), {}, {}, {}};
  };
  for (Order order : {Order::kHopperFast, Order::kHopperPromoted})
    for (Dtype a : {Dtype::kE4m3, Dtype::kE5m2})
      for (Dtype b : {Dtype::kE4m3, Dtype::kE5m2})
        for (Data kind : kAllData)
          for (int64_t k : {1, 16, 47, 160})
            record_unit_call(
                tape, problem(order, a, b, kind, 8, k),
                fmt::format("{} {} x {} data {} k={}", name(order), name(a), name(b), static_cast<int>(kind), k));
  // NaN and infinity: one special code per row of a, and per row of b, among finite ones.
  const uint8_t specials[2][6] = {{0x7f, 0xff, 0x00, 0x80, 0x7e, 0xfe}, {0x7c, 0xfc, 0x7d, 0xff, 0x7f, 0x00}};
  for (Order order : {Order::kHopperFast, Order::kHopperPromoted})
    for (Dtype a : {Dtype::kE4m3, Dtype::kE5m2})
      for (Dtype b : {Dtype::kE4m3, Dtype::kE5m2})
        for (int64_t k : {32, 288}) {
          HostProblem p = problem(order, a, b, Data::kNormal, 16, k);
          for (int64_t r = 0; r < 64; ++r)
            p.a.as<uint8_t>()[r * k + random.below(static_cast<uint32_t>(k))] = specials[a == Dtype::kE5m2][r % 6];
          for (int64_t r = 0; r < 8; ++r)
            p.b.as<uint8_t>()[r * k + random.below(static_cast<uint32_t>(k))] = specials[b == Dtype::kE5m2][r % 6];
          for (int64_t r = 0; r < 6; ++r)  // a special against a zero and against another special, in the same place
            p.a.as<uint8_t>()[r * k] = specials[a == Dtype::kE5m2][r],
                                  p.b.as<uint8_t>()[r * k] = r % 2 ? 0x00 : specials[b == Dtype::kE5m2][(r + 1) % 6];
          record_unit_call(tape, std::move(p),
                           fmt::format("{} {} x {} special k={}", name(order), name(a), name(b), k));
        }
  tape.write(directory / "unit.safetensors", device);
}

/// Scales and biases at the edges of FP32 and fp16, through the rows of the tables.
void record_epilogue(const std::filesystem::path& directory, const DeviceInfo& device) {
  Tape tape;
  Random random{2027};
  const std::vector<float> edges = edge_values();
  const auto run_and_add = [&](const HostProblem& p, const std::string& what) { tape.add(p, run(device, p), what); };
  for (Order order : {Order::kHopperFast, Order::kHopperPromoted})
    for (Dtype out : {Dtype::kBf16, Dtype::kF16, Dtype::kF32})
      for (bool with_bias : {false, true}) {
        const std::string what = fmt::format("{} {}{}", name(order), name(out), with_bias ? " bias" : "");
        for (int64_t k : {48, 272})
          run_and_add(random_problem(random, order, Data::kAllPatterns, 24, 32, k, out, with_bias), what);
        HostProblem p = random_problem(random, order, Data::kAllPatterns, 16, 32, 64, out, with_bias);
        for (size_t i = 0; i < 16; ++i) p.scale_a[i] = edges[i];
        for (size_t i = 0; i < 32; ++i) p.scale_b[i] = edges[(i * 7) % 16];
        std::fill_n(p.a.bytes.begin(), 64, std::byte{0});  // a row of zeros: signed zeros, 0 * infinity
        run_and_add(p, what + " edges");
        if (!with_bias) continue;
        p.scale_a.assign(1, 0.25f);
        for (int64_t i = 0; i < 32; ++i) store(out, p.bias->view().at(0, i), edges[static_cast<size_t>(i) % 16]);
        run_and_add(p, what + " bias edges");
        p.a.as<uint8_t>()[65] = 0x7f;  // NaN in one row of a, one of b
        p.b.as<uint8_t>()[3 * 64 + 5] = 0xff;
        run_and_add(p, what + " NaN operands");
      }
  tape.write(directory / "epilogue.safetensors", device);
}

/// Block scales, ordinary and at the edges of FP32, over two blocks of channels and short and whole blocks of K.
void record_block(const std::filesystem::path& directory, const DeviceInfo& device) {
  Tape tape;
  Random random{2028};
  const auto run_and_add = [&](const HostProblem& p, const std::string& what) { tape.add(p, run(device, p), what); };
  for (Dtype out : {Dtype::kBf16, Dtype::kF16})
    for (bool with_bias : {false, true})
      for (int64_t k : {48, 256, 400}) {
        const std::string what = fmt::format("{}{} k={}", name(out), with_bias ? " bias" : "", k);
        for (Data kind : {Data::kAllPatterns, Data::kNormal, Data::kCancelling})
          run_and_add(random_problem(random, Order::kHopperBlock128, kind, 9, 144, k, out, with_bias), what);
        run_and_add(edge_problem(random, Order::kHopperBlock128, 16, 144, k, out, with_bias), what + " edges");
      }
  tape.write(directory / "block.safetensors", device);
}

}  // namespace
}  // namespace samebits::record

int main(int argc, char** argv) {
  using namespace samebits;
  if (argc != 2 || samebits::testing::gpus().empty()) {
    fmt::print(stderr, "usage: {} OUT_DIRECTORY (on a machine with a Hopper GPU)\n", argv[0]);
    return 2;
  }
  const DeviceInfo& device = *samebits::testing::gpus()[0];
  cuda::set_device(device.ordinal);
  std::filesystem::create_directories(argv[1]);
  record::record_unit(argv[1], device);
  record::record_epilogue(argv[1], device);
  record::record_block(argv[1], device);
  return 0;
}
