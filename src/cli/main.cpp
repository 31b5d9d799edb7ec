// The samebits executable: subcommands, --version, and errors mapped to exit codes.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <exception>

#include "cli/commands.h"
#include "cli/device.h"
#include "cli/text.h"
#include "samebits/error.h"

namespace samebits::cli {
namespace {

ExitCode exit_code = kSame;

constexpr char kExamples[] = R"(Examples:
  samebits verify model.safetensors            every output row has the same bits in every batch
  samebits verify --shapes qwen3-1.7b          the same on random weights of a known model's shapes
  samebits quantize ./model ./model-fp8        linear layers of a checkpoint to FP8
  samebits audit recording.safetensors         recorded GPU outputs against the CPU backend
  samebits info --shape 64,4096,2048           which kernel would run, and why
  samebits bench --shapes llama3-8b            every kernel beside the fixed tile and cuBLASLt
  samebits tune --shapes llama3-8b             the fastest kernels for your shapes on your GPU, as a rules file
  samebits prove                               hold every kernel of your GPU to the others and the CPU; certify it

Exit codes: 0 same bits, 1 different bits, 2 bad input (no linear layer, no such device, parse errors),
3 device fault, 130 interrupted.)";

ExitCode code_of(const Error& error) { return error.code() == ErrorCode::kDeviceFault ? kDeviceFault : kBadRequest; }

/// Messages quote names from files and arguments, which must not drive the terminal.
void print_error(std::string_view what) {
  std::fflush(stdout);
  fmt::print(stderr, "samebits: {}\n", plain(what));
}

int run(int argc, char** argv) {
  // A file size limit is then an Error like a full disk, and temporary files are removed.
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app("samebits: FP8 linear layers whose output bits never depend on the batch");
  app.set_version_flag("--version", "samebits " SAMEBITS_VERSION);
  app.footer(kExamples);
  app.failure_message([](const CLI::App*, const CLI::Error& e) {
    return fmt::format("{}\nRun with --help for more information.\n", plain(e.what()));
  });
  app.require_subcommand(1);
  app.fallthrough();  // --certificate is taken before and after the subcommand
  app.add_option_function<std::string>("--certificate", use_certificate,
                                       "a certificate of `samebits prove` for the GPU of this machine")
      ->envname("SAMEBITS_CERTIFICATE")
      ->trigger_on_parse(false);
  add_verify(app);
  add_audit(app);
  add_info(app);
  add_quantize(app);
  add_bench(app);
  add_tune(app);
  add_prove(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    app.exit(e);
    return kBadRequest;
  } catch (const Error& e) {
    print_error(e.what());
    // What was found stands, whatever failed after it.
    return exit_code == kDifferent ? kDifferent : code_of(e);
  } catch (const std::exception& e) {  // out of memory, a full pipe
    print_error(e.what());
    return kBadRequest;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    print_error("stdout could not be written");
    return kBadRequest;
  }
  return exit_code;
}

}  // namespace

void set_exit_code(ExitCode code) { exit_code = code; }

}  // namespace samebits::cli

int main(int argc, char** argv) { return samebits::cli::run(argc, argv); }
