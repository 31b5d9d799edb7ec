// `samebits audit`: replays recorded GPU calls on the CPU and compares every output bit.
#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <vector>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "io/recording.h"
#include "numerics/formats.h"
#include "numerics/reference.h"

namespace samebits::cli {
namespace {

struct Arguments {
  std::vector<std::string> recordings;
  bool reference = false;
  int threads = 0;
};

struct Totals {
  uint64_t calls = 0, outputs = 0, differing = 0;
  bool explained = false;
};

uint32_t bits(const ConstView& v, int64_t row, int64_t col) {
  uint32_t code = 0;
  std::memcpy(&code, v.at(row, col), size_of(v.dtype));
  return code;
}

/// Adds the comparison of one call to `totals` and explains the first difference of the run.
void compare(const std::string& path, size_t call, const ConstView& got, const ConstView& recorded, Totals& totals) {
  for (int64_t row = 0; row < got.rows; ++row)
    for (int64_t col = 0; col < got.cols; ++col) {
      const uint32_t g = bits(got, row, col), w = bits(recorded, row, col);
      if (g == w) continue;
      ++totals.differing;
      if (totals.explained) continue;
      totals.explained = true;
      const auto digits = 2 * size_of(got.dtype);
      fmt::print("first difference: {} call {}: row {}, column {}: 0x{:0{}x} here, 0x{:0{}x} recorded, {} {} ulps\n",
                 plain(path), call, row, col, g, digits, w, digits, name(got.dtype), ulps(got.dtype, g, w));
    }
}

void audit_call(const std::string& path, size_t index, const RecordedCall& call, const Arguments& arguments,
                Totals& totals) {
  std::vector<std::byte> bytes(static_cast<size_t>(call.out.rows * call.out.cols) * size_of(call.out.dtype));
  const View out(bytes.data(), call.out.dtype, call.out.rows, call.out.cols);
  const GemmProblem problem = call.problem(out);
  Launch launch;
  launch.threads = arguments.threads;
  if (arguments.reference)
    reference_gemm(problem);
  else
    gemm(problem, launch);
  compare(path, index, out, call.out, totals);
  ++totals.calls;
  totals.outputs += static_cast<uint64_t>(call.out.rows * call.out.cols);
}

void run_audit(const Arguments& arguments) {
  const Interrupt interrupt;
  Progress progress;
  Totals totals;
  for (const std::string& path : arguments.recordings) {
    const Recording recording = Recording::open(path);
    const uint64_t differing = totals.differing;
    for (size_t i = 0; i < recording.calls().size(); ++i) {
      progress.show(static_cast<double>(i) / static_cast<double>(recording.calls().size()), path);
      audit_call(path, i, recording.calls()[i], arguments, totals);
      if (!interrupt.requested()) continue;
      progress.clear();
      fmt::print(stderr, "samebits: interrupted after {} calls, nothing is concluded\n", totals.calls);
      return set_exit_code(kInterrupted);
    }
    progress.clear();
    const auto device = recording.metadata().find("device");
    fmt::print("{}: version {}, {} calls recorded on {}, {} outputs differ\n", plain(path), recording.version(),
               recording.calls().size(),
               device == recording.metadata().end() ? "an unnamed device" : plain(device->second),
               totals.differing - differing);
  }
  fmt::print("{} calls, {} outputs, {} differ\n", totals.calls, totals.outputs, totals.differing);
  if (totals.differing) set_exit_code(kDifferent);
}

}  // namespace

void add_audit(CLI::App& app) {
  CLI::App* command = app.add_subcommand("audit", "replay recorded GPU calls on the CPU and compare every bit");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("recording", arguments->recordings, "recordings, safetensors files of version 1 or 2")
      ->required();
  command->add_flag("--reference", arguments->reference, "use the scalar reference instead of the CPU backend (slow)");
  command->add_option("--threads", arguments->threads, "CPU threads; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->footer(
      "The last line of stdout is \"N calls, M outputs, D differ\".\n\nExample:\n  samebits audit "
      "tests/golden/h100.safetensors");
  command->callback([arguments] { run_audit(*arguments); });
}

}  // namespace samebits::cli
