// Runs the built executable as a user does and keeps what it wrote. Used by the tests of the command line.
#pragma once
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "files.h"

namespace samebits::testing {

/// A finished process: its exit code (128 + the signal that ended it), stdout and stderr.
struct CliRun {
  int code = -1;
  std::string out, err;

  std::string last_line() const {
    if (out.empty() || out.back() != '\n') return "(stdout does not end in a line)";
    const size_t end = out.size() - 1, start = out.rfind('\n', end - 1);
    return out.substr(start == std::string::npos ? 0 : start + 1, end - (start == std::string::npos ? 0 : start + 1));
  }
};

/// `text` cut at its spaces.
inline std::vector<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

/// Runs `samebits args...`; `during` gets its process id while it runs; `out` replaces stdout's file.
inline CliRun run_cli(const std::vector<std::string>& args, const std::function<void(pid_t)>& during = {},
                      const std::string& out = "") {
  const TempFolder folder;
  const std::string out_path = out.empty() ? (folder / "out").string() : out, err_path = (folder / "err").string();
  std::vector<char*> argv = {const_cast<char*>(SAMEBITS_CLI_PATH)};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(open(out_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
    dup2(open(err_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  if (during) during(pid);
  int status = 0;
  waitpid(pid, &status, 0);
  CliRun run;
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  run.out = out.empty() ? read_file(out_path) : "";
  run.err = read_file(err_path);
  return run;
}

}  // namespace samebits::testing
