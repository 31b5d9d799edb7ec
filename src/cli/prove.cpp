// `samebits prove`: the rows of this machine's GPU held to each other and to the CPU, and the certificate of it.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/device.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/prove.h"
#include "cli/text.h"
#include "io/file.h"
#include "samebits/rules.h"

namespace samebits::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  std::string device = "auto", out = "samebits-certificate.json", check, json;
  int rounds = 8, threads = 0;
};

void run_prove(const Arguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  const Interrupt interrupt;
  Progress progress;
  use_certificate("");  // an expired one in the environment must not be in the way of the next
  const DeviceChoice choice = select_device(arguments.device, {});
  check_can_write(arguments.out);
  if (is_file(arguments.json)) check_can_write(arguments.json);
  ProveOptions options;
  options.device = &choice.device;
  options.rounds = arguments.rounds;
  options.threads = arguments.threads;
  options.cancel = interrupt.flag();
  options.progress = [&](double fraction, const std::string& what) { progress.show(fraction, what); };
  const ProveReport report = prove(options);
  progress.clear();
  if (report.cancelled) {
    std::fprintf(stderr, "samebits: interrupted: nothing is proven, no certificate was written\n");
    return set_exit_code(kInterrupted);
  }
  set_exit_code(exit_code_of(report));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (arguments.json != "-") fmt::print("{}", prove_table(report, choice.device, seconds));
  std::fflush(stdout);  // before a file that cannot be written loses what is known
  CertificateFile file;
  std::exception_ptr failed;  // what was found is told all the same
  try {
    file = settle_certificate(report, choice.device, arguments.rounds, arguments.out);
  } catch (const Error&) {
    failed = std::current_exception();
  }
  const std::string json = prove_json(report, choice.device, arguments.rounds, seconds, file);
  if (arguments.json == "-") fmt::print("{}\n", json);
  fmt::print("{}\n", prove_verdict(report, file));
  std::fflush(stdout);
  if (is_file(arguments.json)) atomic_write_text(arguments.json, json + "\n");
  if (failed) std::rethrow_exception(failed);
}

void run_check(const Arguments& arguments) {
  const Certificate c = load_certificate(arguments.check);
  const auto& gpus = cuda_devices();
  const DeviceInfo* held = nullptr;
  for (const DeviceInfo& gpu : gpus)
    if (c.holds_for(gpu)) held = &gpu;
  if (!gpus.empty() && !held) check_certificate(c, gpus.front());
  uint64_t outputs = 0;
  size_t rows = 0;
  std::string other_bits;
  for (const ProvedOrder& order : c.orders) {
    outputs += order.outputs();
    rows += order.rows.size();
    if (!order.auditable) other_bits += "; " + not_auditable(order);
  }
  Json json = {{"format", "samebits-check"},
               {"version", 1},
               {"certificate", arguments.check},
               {"device", c.device},
               {"arch", c.arch},
               {"date", c.date},
               {"digest", fmt::format("{:016x}", c.digest)},
               {"rows", rows},
               {"outputs", outputs},
               {"holds_for", held ? Json(held->ordinal) : Json(nullptr)}};
  const std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (is_file(arguments.json)) atomic_write_text(arguments.json, text + "\n");
  if (arguments.json == "-") return fmt::print("{}\n", text);
  fmt::print("{}: {} (sm_{}), {}: {} rows, {} outputs{}\n{}\n", plain(arguments.check), plain(c.device), c.arch,
             plain(c.date), rows, outputs, other_bits,
             held ? fmt::format("it holds for cuda:{}", held->ordinal)
                  : "undamaged and of this version; there is no GPU here to hold it to");
}

constexpr char kFooter[] =
    R"(Every row that the GPU can launch computes the same problems: all bit patterns, subnormals, cancelling sums, the widest
exponents, needles, NaN and infinite scales, padded rows, shapes at the edges of every tile, M sweeps of a small weight and of those
of vLLM's own test of batch invariance, concurrent streams. Rows of 16-bit operands get them in bf16 and fp16, with sums at both ends
of FP32, infinities, and weights of the same dtype and in e4m3: the rows that do not widen an e4m3 weight get it widened, and are held
to those that do. Rows of block scales get scales of full significands, of powers of two and of wide exponents. Every output is
compared bit by bit with the first row's, and the first row's with the CPU backend (of a sweep the first 16 tokens); nothing may be
written between padded rows or past the last one. A K-split schedule runs through the same comparison and must be caught. Rows that
the GPU cannot launch are listed with the reason. The 90 rows of a Hopper take 16 to 19 s a round.

If every row ran and all agree a certificate is written. If not, there is none, and one of an earlier run in the place of --out that
holds for this GPU is removed; an interrupted run, or one that CUDA stopped, leaves it. With a certificate (--certificate FILE, the
environment variable SAMEBITS_CERTIFICATE, or samebits.load_certificate in Python) every row of this kind of GPU may be chosen; without
one an architecture that the project has not proven is held to one row. If the rows agree and the CPU backend does not, the
certificate says so: invariant, not auditable. It does not survive another version of samebits or of its contract, another major
version of the driver, or another kind of GPU.

Exit codes: 0 a certificate was written, 1 rows differ or the control was not caught, 2 rows agree but some could not be launched (or
bad input), 3 device fault, 130 interrupted.

Examples:
  samebits prove
  samebits prove --device cuda:1 --rounds 1 --out quick.json
  samebits prove --check samebits-certificate.json)";

}  // namespace

void add_prove(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("prove", "hold every kernel of this GPU to the others and the CPU; certify it");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--device", arguments->device, "auto or cuda:N")->capture_default_str();
  command->add_option("--rounds", arguments->rounds, "of the cases, each with other data; 1 is a quick run")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--out", arguments->out, "the certificate")->capture_default_str();
  command->add_option("--check", arguments->check, "read a certificate instead and say whether it holds here");
  add_threads(*command, arguments->threads);
  add_verdict_json(*command, arguments->json);
  command->footer(kFooter);
  command->callback([arguments] { arguments->check.empty() ? run_prove(*arguments) : run_check(*arguments); });
}

}  // namespace samebits::cli
