// Devices, device memory and streams: the CUDA runtime behind cuda.h. Called by src/core and the edges.
#include <cuda_runtime.h>

#include <utility>

#include "cuda/cuda.h"
#include "cuda/error.h"

namespace samebits::cuda {
namespace {

int attribute(cudaDeviceAttr which, int ordinal) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, ordinal), "cudaDeviceGetAttribute");
  return value;
}

// The architectures whose every row this project has proven against the CPU backend, on an H100 and an H200: other
// Hoppers are taken to compute as these do. certificates/ has the proofs; CertificateTest fails where the names of
// their rows are not those of this build, and does not know whether the code of a row has changed.
bool proven(int arch) { return arch == 90; }

DeviceInfo describe(int ordinal) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  DeviceInfo info;
  info.arch = 10 * properties.major + properties.minor;
  info.sms = properties.multiProcessorCount;
  info.shared_memory = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  info.certified = proven(info.arch);
  info.ordinal = ordinal;
  info.memory = static_cast<int64_t>(properties.totalGlobalMem);
  info.name = properties.name;
  // Both edges of the clock (kHz) over a bus of so many bits.
  info.gbps = static_cast<int>(2e-6 / 8 * attribute(cudaDevAttrMemoryClockRate, ordinal) *
                               attribute(cudaDevAttrGlobalMemoryBusWidth, ordinal));
  check(cudaDriverGetVersion(&info.driver), "cudaDriverGetVersion");
  return info;
}

}  // namespace

std::vector<DeviceInfo> devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {  // no GPU or no driver: not an error
    cudaGetLastError();
    return {};
  }
  std::vector<DeviceInfo> all;
  for (int i = 0; i < count; ++i) all.push_back(describe(i));
  return all;
}

void set_device(int ordinal) { check(cudaSetDevice(ordinal), "cudaSetDevice"); }

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes) check(cudaMalloc(&data_, bytes), "cudaMalloc");
}
Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
Buffer::~Buffer() { cudaFree(data_); }

void Buffer::upload(const void* host, size_t bytes, size_t offset, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  check(cudaMemcpyAsync(static_cast<std::byte*>(data_) + offset, host, bytes, cudaMemcpyHostToDevice, s), "upload");
  check(cudaStreamSynchronize(s), "upload");
}
void Buffer::download(void* host, size_t bytes, size_t offset, void* stream) const {
  const auto s = static_cast<cudaStream_t>(stream);
  check(cudaMemcpyAsync(host, static_cast<std::byte*>(data_) + offset, bytes, cudaMemcpyDeviceToHost, s), "download");
  check(cudaStreamSynchronize(s), "download");
}
void Buffer::fill(uint8_t byte, void* stream) {
  check(cudaMemsetAsync(data_, byte, bytes_, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

Stream::Stream() {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  stream_ = stream;
}
Stream::~Stream() { cudaStreamDestroy(static_cast<cudaStream_t>(stream_)); }
void Stream::synchronize() const {
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)), "cudaStreamSynchronize");
}

}  // namespace samebits::cuda
