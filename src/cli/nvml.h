// The clocks of a GPU as NVML tells them: loaded with dlopen, so that nothing links it. Called by bench.cpp.
#pragma once
#include <memory>
#include <optional>
#include <string>

namespace samebits::cli {

/// NVML opened for one device.
class Nvml {
 public:
  /// Opens libnvidia-ml.so.1. Throws Error(kUnsupported) with the reason when it or the device cannot be had.
  explicit Nvml(const std::string& pci_bus_id);
  ~Nvml();

  struct Clocks {
    unsigned sm_mhz, memory_mhz;
  };
  /// What the clocks are now; nothing where the driver does not tell.
  std::optional<Clocks> clocks() const;

 private:
  struct Api;
  std::unique_ptr<Api> api_;
  void* device_ = nullptr;
};

}  // namespace samebits::cli
