// Ctrl-C as a flag: while an Interrupt lives, the first SIGINT sets the flag and the second one ends the process.
#pragma once
#include <atomic>

namespace samebits::cli {

class Interrupt {
 public:
  Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt();
  const std::atomic<bool>* flag() const;
  bool requested() const { return flag()->load(); }
};

}  // namespace samebits::cli
