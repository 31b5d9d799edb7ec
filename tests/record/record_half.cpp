// Records what this GPU's bare matrix unit returns for bf16 and fp16 operands (tests/golden/half.safetensors): bits
// come from the GPU alone. With a reference at hand (any build of this tree) it then says which calls differ from it.
// Links no GEMM kernel, so it builds in a minute. Run on a Hopper:
//   build/test/tests/samebits_record_half OUT_DIRECTORY [ROUNDS]
// Round 0 is the golden file; further rounds have other seeds, to fit a model or to doubt one:
// half.<round>.safetensors.
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <deque>
#include <filesystem>

#include "cuda/cuda.h"
#include "half.h"
#include "io/recording.h"
#include "numerics/reference.h"
#include "record/unit.h"

namespace samebits::record {
namespace {

using namespace samebits::testing;

/// a . b of the bare unit. M and N are filled up with rows of zeros to what the instruction takes.
Matrix accumulate(const Matrix& a, const Matrix& b) {
  const auto fill_up = [](const Matrix& from, int64_t step) {
    Matrix to(from.dtype, (from.rows + step - 1) / step * step, from.cols);
    std::fill(to.bytes.begin(), to.bytes.end(), std::byte{0});
    std::copy(from.bytes.begin(), from.bytes.end(), to.bytes.begin());
    return to;
  };
  const Matrix rows = fill_up(a, 64), channels = fill_up(b, 8);
  Matrix all(Dtype::kF32, rows.rows, channels.rows), out(Dtype::kF32, a.rows, b.rows);
  wgmma_accumulate(rows.view(), channels.view(), 0, all.as<float>());
  for (int64_t r = 0; r < a.rows; ++r)
    std::copy_n(all.as<float>() + r * channels.rows, b.rows, out.as<float>() + r * b.rows);
  return out;
}

void record_round(const std::filesystem::path& path, uint64_t seed, const DeviceInfo& device) {
  struct Call {
    Matrix a, b, out;
    std::string what;
  };
  static const float one = 1.0f;
  Random random{seed};
  std::deque<Call> calls;
  const auto add = [&](Dtype dtype, HalfData kind, int64_t m, int64_t n, int64_t k) {
    auto [a, b] = half_operands(random, kind, dtype, m, n, k);
    Matrix out = accumulate(a, b);
    calls.push_back({std::move(a), std::move(b), std::move(out),
                     fmt::format("{} data {} m={} n={} k={}", name(dtype), static_cast<int>(kind), m, n, k)});
  };
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
    for (HalfData kind : kAllHalfData) {
      add(dtype, kind, 64, 32, 16);  // one step
      add(dtype, kind, 64, 32, 8);   // half a step, the rest zeros
      add(dtype, kind, 64, 24, 32);  // an accumulator of one step enters the next
      add(dtype, kind, 32, 24, 59);
      add(dtype, kind, 16, 8, 176);
    }
    add(dtype, HalfData::kNormal, 6, 8, 4096);
    add(dtype, HalfData::kCancelling, 6, 8, 1000);
  }

  std::vector<RecordedCall> recorded;
  for (const Call& c : calls)
    recorded.push_back({Order::kHopperBf16, c.a.view(), c.b.view(), Scales::per_tensor(&one), Scales::per_tensor(&one),
                        ConstView(), c.out.view()});
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  write_recording(path, recorded,
                  {{"device", device.name},
                   {"driver", std::to_string(device.driver)},
                   {"date", date},
                   {"command", "samebits_record_half DIRECTORY"}});

  int64_t differ = 0, outputs = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    Matrix want(Dtype::kF32, calls[i].out.rows, calls[i].out.cols);
    reference_gemm(recorded[i].problem(want.view()));
    outputs += want.rows * want.cols;
    if (const auto same = same_bits(calls[i].out.view(), want.view()); !same) {
      ++differ;
      fmt::print("call {} ({}): {}\n", i, calls[i].what, same.message());
    }
  }
  fmt::print("{}: {} calls, {} outputs, {} calls differ from the reference\n", path.filename().string(), calls.size(),
             outputs, differ);
}

}  // namespace
}  // namespace samebits::record

int main(int argc, char** argv) {
  using namespace samebits;
  const std::vector<DeviceInfo> devices = cuda::devices();
  if (argc < 2 || argc > 3 || devices.empty() || devices[0].arch != 90) {
    fmt::print(stderr, "usage: {} OUT_DIRECTORY [ROUNDS] (on a machine with a Hopper GPU)\n", argv[0]);
    return 2;
  }
  const std::filesystem::path directory = argv[1];
  const int rounds = argc == 3 ? std::atoi(argv[2]) : 1;
  cuda::set_device(devices[0].ordinal);
  std::filesystem::create_directories(directory);
  for (int round = 0; round < rounds; ++round)
    record::record_round(directory / (round ? fmt::format("half.{}.safetensors", round) : "half.safetensors"),
                         2028 + static_cast<uint64_t>(round), devices[0]);
  return 0;
}
