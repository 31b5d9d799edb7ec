// The places to run, read once.
#include <fmt/format.h>

#include "cuda/cuda.h"
#include "samebits/gemm.h"

namespace samebits {

std::string describe(const DeviceInfo& device) {
  return device.is_cpu() ? device.name : fmt::format("{} (sm_{})", device.name, device.arch);
}

const DeviceInfo& cpu_device() {
  static const DeviceInfo cpu;
  return cpu;
}

namespace {

struct Found {
  std::string why_none;
  std::vector<DeviceInfo> devices = cuda::devices(why_none);
};

const Found& found() {
  static const Found found;
  return found;
}

}  // namespace

const std::vector<DeviceInfo>& cuda_devices() { return found().devices; }
const std::string& why_no_cuda_devices() { return found().why_none; }

}  // namespace samebits
