// Runs the samebits executable as a user does: exit code and stdout.
#pragma once
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace samebits::testing {

struct Ran {
  int exit_code;
  std::string out;  ///< stdout; stderr too if the arguments say 2>&1
};

/// `arguments` go through the shell.
inline Ran run_cli(const std::string& arguments) {
  Ran ran{-1, ""};
  std::FILE* pipe = popen(("'" SAMEBITS_CLI_PATH "' " + arguments).c_str(), "r");
  if (!pipe) return ran;
  char buffer[4096];
  for (size_t got; (got = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) ran.out.append(buffer, got);
  const int status = pclose(pipe);
  ran.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ran;
}

}  // namespace samebits::testing
