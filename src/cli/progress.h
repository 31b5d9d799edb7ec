// A progress bar on stderr, drawn only on a terminal and at most ten times a second. Used by every long command.
#pragma once
#include <chrono>
#include <string_view>

namespace samebits::cli {

class Progress {
 public:
  Progress();
  ~Progress() { clear(); }
  /// Draws `fraction` of 1 with `label`, made plain, behind it.
  void show(double fraction, std::string_view label);
  /// Removes the bar, so that other text can be printed.
  void clear();

 private:
  std::chrono::steady_clock::time_point start_, drawn_;
  int columns_ = 0;  // of the terminal; 0: not a terminal
  bool visible_ = false;
};

}  // namespace samebits::cli
