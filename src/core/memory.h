// Memory of the device under proof and the one comparison that both backends' outputs go through. Called by verify.
#pragma once
#include <memory>
#include <vector>

#include "cuda/cuda.h"
#include "samebits/gemm.h"

namespace samebits {

/// The device a proof runs on: current for this thread, with a stream of its own.
class Place {
 public:
  explicit Place(const DeviceInfo& device);
  const DeviceInfo& device() const { return device_; }
  bool is_cpu() const { return device_.is_cpu(); }
  void* stream() const { return stream_ ? stream_->get() : nullptr; }
  void synchronize() const;

 private:
  const DeviceInfo& device_;
  std::unique_ptr<cuda::Stream> stream_;
};

/// Bytes on a Place: a host vector on the CPU, a cuda::Buffer on a GPU. Transfers are synchronous.
class Memory {
 public:
  Memory() = default;
  Memory(const Place& place, size_t bytes);
  void* data() const { return on_host() ? const_cast<std::byte*>(host_.data()) : device_.data(); }
  size_t size() const { return on_host() ? host_.size() : device_.size(); }
  void upload(const void* from, size_t bytes, size_t offset = 0);
  void download(void* to, size_t bytes, size_t offset = 0) const;
  void fill(uint8_t byte);

 private:
  bool on_host() const { return !place_ || place_->is_cpu(); }
  const Place* place_ = nullptr;
  std::vector<std::byte> host_;
  cuda::Buffer device_;
};

/// Compares row i of `got` with row (first_row + i) % reference.rows of `reference`, bit by bit, on the place.
/// Synchronous.
class Comparison {
 public:
  explicit Comparison(const Place& place);
  cuda::Difference operator()(ConstView got, ConstView reference, int64_t first_row);

 private:
  const Place& place_;
  Memory total_;
};

}  // namespace samebits
