// `samebits audit`: replays recorded GPU calls on the CPU and compares every output bit.
#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <vector>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "core/memory.h"
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
};

uint32_t bits(const ConstView& v, int64_t row, int64_t col) {
  uint32_t code = 0;
  std::memcpy(&code, v.at(row, col), size_of(v.dtype));
  return code;
}

void explain(const std::string& path, size_t call, const ConstView& got, const ConstView& recorded, uint64_t at) {
  const int64_t row = static_cast<int64_t>(at) / got.cols, col = static_cast<int64_t>(at) % got.cols;
  const uint32_t g = bits(got, row, col), w = bits(recorded, row, col);
  fmt::print("first difference: {} call {}: row {}, column {}: {} here, {} recorded, {} {} ulps\n", plain(path), call,
             row, col, hex(got.dtype, g), hex(got.dtype, w), name(got.dtype), ulps(got.dtype, g, w));
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
  const cuda::Difference difference = Comparison(Place(cpu_device()))(out, call.out, 0);
  if (difference.count && !totals.differing) explain(path, index, out, call.out, difference.first);
  totals.differing += difference.count;
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
  add_threads(*command, arguments->threads);
  command->footer(
      "The last line of stdout is \"N calls, M outputs, D differ\".\n\nExample:\n  samebits audit "
      "tests/golden/h100.safetensors");
  command->callback([arguments] { run_audit(*arguments); });
}

}  // namespace samebits::cli
