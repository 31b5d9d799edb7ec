// The CUDA level of a build without CUDA: no devices, no rows, and launches that say so.
#include "cuda/cuda.h"
#include "cuda/timing.h"

namespace samebits::cuda {
namespace {

[[noreturn]] void no_cuda() {
  throw Error(ErrorCode::kNoDevice,
              "this samebits was built without CUDA kernels; configure with SAMEBITS_ARCHS=native or all");
}

}  // namespace

std::vector<DeviceInfo> devices() { return {}; }
void set_device(int) { no_cuda(); }
void quantize_per_token(ConstView, View, float*, const float*, const Launch&) { no_cuda(); }
void quantize_static(ConstView, const float*, View, const Launch&) { no_cuda(); }
void quantize_per_group(ConstView, View, const GroupScales&, const Launch&) { no_cuda(); }
void quantize_weight(ConstView, Granularity, View, float*, const Launch&) { no_cuda(); }
void dequantize(ConstView, const Scales&, View, const Launch&) { no_cuda(); }
void rms_norm(const RmsNorm&, View, const Launch&) { no_cuda(); }
void rms_norm_quantize(const RmsNorm&, View, float*, const float*, const Launch&) { no_cuda(); }
void rms_norm_quantize_per_group(const RmsNorm&, View, const GroupScales&, const Launch&) { no_cuda(); }
void silu_mul(ConstView, View, const Launch&) { no_cuda(); }
void silu_mul_quantize(ConstView, View, float*, const float*, const Launch&) { no_cuda(); }
void silu_mul_quantize_per_group(ConstView, View, const GroupScales&, const Launch&) { no_cuda(); }
void compare_rows(ConstView, ConstView, int64_t, Difference*, void*) { no_cuda(); }

Buffer::Buffer(size_t) { no_cuda(); }
Buffer::Buffer(Buffer&&) noexcept = default;
Buffer& Buffer::operator=(Buffer&&) noexcept = default;
Buffer::~Buffer() = default;
void Buffer::upload(const void*, size_t, size_t, void*) { no_cuda(); }
void Buffer::download(void*, size_t, size_t, void*) const { no_cuda(); }
void Buffer::fill(uint8_t, void*) { no_cuda(); }
Stream::Stream() { no_cuda(); }
Stream::~Stream() = default;
void Stream::synchronize() const { no_cuda(); }

Replay::Replay(int launches, const std::function<void(int)>&, void* stream) : launches_(launches), stream_(stream) {
  no_cuda();
}
Replay::Replay(Replay&&) noexcept = default;
Replay::~Replay() = default;
double Replay::microseconds() const { no_cuda(); }
void read_all(const void*, size_t, void*, int, void*) { no_cuda(); }
void do_nothing(int, void*) { no_cuda(); }
std::string pci_bus_id(int) { no_cuda(); }

}  // namespace samebits::cuda
