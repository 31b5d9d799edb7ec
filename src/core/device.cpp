// The places to run, read once.
#include "cuda/cuda.h"
#include "samebits/gemm.h"

namespace samebits {

const DeviceInfo& cpu_device() {
  static const DeviceInfo cpu;
  return cpu;
}

const std::vector<DeviceInfo>& cuda_devices() {
  static const std::vector<DeviceInfo> devices = cuda::devices();
  return devices;
}

}  // namespace samebits
