// The subcommands of the samebits executable. main.cpp adds them all; each has a file of its own.
#pragma once
#include <CLI/CLI.hpp>

#include <string>

#include "cli/exit_code.h"

namespace samebits::cli {

/// The most that --threads takes: far above any machine, and a number that a message can print.
inline constexpr int kMaxThreads = 4096;

/// The options that several commands have, in one place each.
inline void add_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "CPU threads; 0: all")
      ->check(CLI::Range(0, kMaxThreads))
      ->capture_default_str();
}
/// --json of a command whose last line is a verdict: "-" for stdout, or a file.
inline void add_verdict_json(CLI::App& command, std::string& json) {
  command.add_flag(
      "--json{-}", json,
      "print one line of JSON instead of the table (the verdict stays the last line); --json=FILE writes it to a file");
}

/// Whether what such an option was given names a file.
inline bool is_file(const std::string& json) { return !json.empty() && json != "-"; }

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
