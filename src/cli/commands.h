// The subcommands of the samebits executable. main.cpp adds them all; each has a file of its own.
#pragma once
#include <CLI/CLI.hpp>

#include "cli/exit_code.h"

namespace samebits::cli {

/// The most that --threads takes: far above any machine, and a number that a message can print.
inline constexpr int kMaxThreads = 4096;

/// Stores what the process returns. Error and parse errors are mapped by main.
void set_exit_code(ExitCode code);

void add_verify(CLI::App& app);
void add_audit(CLI::App& app);
void add_info(CLI::App& app);
void add_quantize(CLI::App& app);
void add_bench(CLI::App& app);
void add_tune(CLI::App& app);
void add_prove(CLI::App& app);

}  // namespace samebits::cli
