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

const std::vector<DeviceInfo>& cuda_devices() {
  static const std::vector<DeviceInfo> devices = cuda::devices();
  return devices;
}

}  // namespace samebits
