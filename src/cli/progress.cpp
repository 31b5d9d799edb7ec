// The progress bar: one line, redrawn in place.
#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "cli/text.h"

namespace samebits::cli {

Progress::Progress() : start_(std::chrono::steady_clock::now()), drawn_(start_) {
  winsize size = {};
  if (!isatty(STDERR_FILENO)) return;
  columns_ = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void Progress::show(double fraction, std::string_view label) {
  using namespace std::chrono;
  const auto now = steady_clock::now();
  if (!columns_ || now - drawn_ < 100ms) return;
  drawn_ = now;
  fraction = std::clamp(fraction, 0.0, 1.0);
  const double seconds = duration<double>(now - start_).count();
  constexpr int kWidth = 24;
  const int full = static_cast<int>(fraction * kWidth);
  const std::string left = fraction > 0.01 ? fmt::format("{:.0f} s left", seconds / fraction * (1 - fraction)) : "";
  std::string line =
      fmt::format("[{}{}] {:3.0f}%  {}  {}", std::string(static_cast<size_t>(full), '#'),
                  std::string(static_cast<size_t>(kWidth - full), '.'), 100 * fraction, left, plain(label));
  line.resize(std::min(line.size(), static_cast<size_t>(columns_ - 1)));
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  std::fflush(stderr);
  visible_ = true;
}

void Progress::clear() {
  if (!visible_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  visible_ = false;
}

}  // namespace samebits::cli
