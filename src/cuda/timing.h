// Device time of work that a CUDA graph replays, and the two kernels whose times are the machine's own ceilings.
// Called by `samebits bench`. No CUDA header is needed to read it; a build without nvcc has none.cpp.
#pragma once
#include <cstddef>
#include <functional>
#include <string>

namespace samebits::cuda {

/// `launches` calls of enqueue(i), captured once into a CUDA graph on `stream`. A graph leaves no gaps for the host to
/// fill, so what is timed is the device. enqueue must only launch on that stream; what it throws passes through.
class Replay {
 public:
  Replay(int launches, const std::function<void(int)>& enqueue, void* stream);
  Replay(Replay&& other) noexcept;
  Replay& operator=(Replay&&) = delete;
  ~Replay();
  /// Replays the graph once and waits. Returns microseconds per launch.
  double microseconds() const;

 private:
  int launches_;
  void* stream_;
  void* graph_ = nullptr;  // cudaGraphExec_t
  void* start_ = nullptr;  // cudaEvent_t
  void* stop_ = nullptr;
};

/// Reads `bytes` (a multiple of 16) at `data` once with `blocks` blocks; `sink` (16 bytes) is never written in practice
/// but keeps the reads alive. Asynchronous.
void read_all(const void* data, size_t bytes, void* sink, int blocks, void* stream);

/// A kernel of `blocks` blocks that does nothing. Asynchronous.
void do_nothing(int blocks, void* stream);

/// Where a device sits, "0000:3b:00.0": the name by which NVML knows it.
std::string pci_bus_id(int ordinal);

}  // namespace samebits::cuda
