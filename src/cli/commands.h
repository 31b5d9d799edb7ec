// The subcommands of the samebits executable. main.cpp adds them all; each has a file of its own.
#pragma once
#include <CLI/CLI.hpp>

namespace samebits::cli {

/// What the process returns. A subcommand stores one with set_exit_code(); Error and parse errors are mapped by main.
enum ExitCode : int {
  kSame = 0,         ///< every output has the same bits; or the command did what it was asked
  kDifferent = 1,    ///< outputs differ, or a control was not caught
  kBadRequest = 2,   ///< bad input, no linear layer, no such device, a file the system refuses, a parse error
  kDeviceFault = 3,  ///< CUDA failed while running
  kInterrupted = 130
};
void set_exit_code(ExitCode code);

void add_verify(CLI::App& app);
void add_audit(CLI::App& app);
void add_info(CLI::App& app);
void add_quantize(CLI::App& app);
void add_bench(CLI::App& app);

}  // namespace samebits::cli
