// Everything the levels above may ask of CUDA, without including a CUDA header. A build without nvcc links none.cpp,
// where there are no devices and every launch throws Error(kNoDevice).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/tile.h"
#include "samebits/fused.h"
#include "samebits/gemm.h"
#include "samebits/quantize.h"

namespace samebits::cuda {

/// The devices of this process; empty when there is no GPU or driver.
std::vector<DeviceInfo> devices();

/// Makes `ordinal` the current device of this thread.
void set_device(int ordinal);

// Kernels behind include/samebits/quantize.h; same arguments, on launch.stream. Checked by src/core/quantize.cpp.
void quantize_per_token(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch);
void quantize_static(ConstView x, const float* scale, View q, const Launch& launch);
void quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch);
void quantize_weight(ConstView w, Granularity granularity, View q, float* scale, const Launch& launch);
void dequantize(ConstView q, const Scales& scale, View out, const Launch& launch);

// Kernels behind include/samebits/fused.h; same arguments. Checked by src/core/fused.cpp.
void rms_norm(const RmsNorm& norm, View y, const Launch& launch);
void rms_norm_quantize(const RmsNorm& norm, View q, float* scale, const float* upper_bound, const Launch& launch);
void rms_norm_quantize_per_group(const RmsNorm& norm, View q, const GroupScales& scales, const Launch& launch);
void silu_mul(ConstView x, View y, const Launch& launch);
void silu_mul_quantize(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch);
void silu_mul_quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch);

/// Columns that rms_norm takes of an element type: its sums of squares lie in shared memory.
constexpr int64_t max_norm_cols(Dtype dtype) { return dtype == Dtype::kF32 ? 131072 : 262144; }

/// Where two matrices differ in bits.
struct Difference {
  uint64_t count;  ///< elements whose bits differ
  uint64_t first;  ///< row * cols + col of the first of them; UINT64_MAX if none
};

/// Compares row i of `got` with row (first_row + i) % reference.rows of `reference`, bit by bit, and adds the result
/// into `*total`, which lies on the device (count += , first = min). Asynchronous.
void compare_rows(ConstView got, ConstView reference, int64_t first_row, Difference* total, void* stream);

/// Device memory for the edges, verify and the tests; the kernels themselves never allocate.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  void* data() const { return data_; }
  size_t size() const { return bytes_; }
  void upload(const void* host, size_t bytes, size_t offset = 0, void* stream = nullptr);    ///< synchronous
  void download(void* host, size_t bytes, size_t offset = 0, void* stream = nullptr) const;  ///< synchronous
  void fill(uint8_t byte, void* stream = nullptr);

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// A stream of the current device.
class Stream {
 public:
  Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();
  void* get() const { return stream_; }
  void synchronize() const;  ///< throws Error(kDeviceFault)

 private:
  void* stream_ = nullptr;
};

}  // namespace samebits::cuda
