// Place, Memory and Comparison: host and device behind one face.
#include "core/memory.h"

#include <cstring>

namespace samebits {

Place::Place(const DeviceInfo& device) : device_(device) {
  if (device.is_cpu()) return;
  cuda::set_device(device.ordinal);
  stream_ = std::make_unique<cuda::Stream>();
}

void Place::synchronize() const {
  if (stream_) stream_->synchronize();
}

Memory::Memory(const Place& place, size_t bytes) : place_(&place) {
  if (place.is_cpu())
    host_.resize(bytes);
  else
    device_ = cuda::Buffer(bytes);
}

void Memory::upload(const void* from, size_t bytes, size_t offset) {
  if (bytes == 0) return;
  if (on_host())
    std::memcpy(host_.data() + offset, from, bytes);
  else
    device_.upload(from, bytes, offset, place_->stream());
}

void Memory::download(void* to, size_t bytes, size_t offset) const {
  if (bytes == 0) return;
  if (on_host())
    std::memcpy(to, host_.data() + offset, bytes);
  else
    device_.download(to, bytes, offset, place_->stream());
}

void Memory::fill(uint8_t byte) {
  if (on_host())
    std::memset(host_.data(), byte, host_.size());
  else
    device_.fill(byte, place_->stream());
}

Comparison::Comparison(const Place& place) : place_(place) {
  if (!place.is_cpu()) total_ = Memory(place, sizeof(cuda::Difference));
}

cuda::Difference Comparison::operator()(ConstView got, ConstView reference, int64_t first_row) {
  cuda::Difference total{0, UINT64_MAX};
  if (!place_.is_cpu()) {
    total_.upload(&total, sizeof total);
    cuda::compare_rows(got, reference, first_row, static_cast<cuda::Difference*>(total_.data()), place_.stream());
    total_.download(&total, sizeof total);
    return total;
  }
  const size_t element = size_of(got.dtype);
  for (int64_t row = 0; row < got.rows; ++row) {
    const int64_t other = (first_row + row) % reference.rows;
    if (std::memcmp(got.at(row, 0), reference.at(other, 0), static_cast<size_t>(got.cols) * element) == 0) continue;
    for (int64_t col = 0; col < got.cols; ++col) {
      if (std::memcmp(got.at(row, col), reference.at(other, col), element) == 0) continue;
      if (total.count++ == 0) total.first = static_cast<uint64_t>(row * got.cols + col);
    }
  }
  return total;
}

}  // namespace samebits
