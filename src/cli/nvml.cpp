// See nvml.h. The constants and signatures are those of NVIDIA's documented C interface.
#include "cli/nvml.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "samebits/error.h"

namespace samebits::cli {
namespace {

constexpr int kClockSm = 1, kClockMemory = 2;  // nvmlClockType_t

}  // namespace

struct Nvml::Api {
  void* library = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*by_bus_id)(const char* pci_bus_id, void** device) = nullptr;
  int (*clock)(void* device, int type, unsigned* mhz) = nullptr;
  bool initialized = false;

  template <class Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) throw Error(ErrorCode::kUnsupported, fmt::format("NVML: this library has no {}", name));
  }
  ~Api() {
    if (initialized) shutdown();
    if (library) dlclose(library);
  }
};

Nvml::Nvml(const std::string& pci_bus_id) : api_(std::make_unique<Api>()) {
  api_->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!api_->library) throw Error(ErrorCode::kUnsupported, fmt::format("NVML was not found: {}", dlerror()));
  api_->find(api_->init, "nvmlInit_v2");
  api_->find(api_->shutdown, "nvmlShutdown");
  api_->find(api_->by_bus_id, "nvmlDeviceGetHandleByPciBusId_v2");
  api_->find(api_->clock, "nvmlDeviceGetClockInfo");
  const auto check = [](int status, const char* what) {
    if (status != 0) throw Error(ErrorCode::kUnsupported, fmt::format("NVML: {} returned status {}", what, status));
  };
  check(api_->init(), "nvmlInit_v2");
  api_->initialized = true;
  check(api_->by_bus_id(pci_bus_id.c_str(), &device_), "nvmlDeviceGetHandleByPciBusId_v2");
}

Nvml::~Nvml() = default;

std::optional<Nvml::Clocks> Nvml::clocks() const {
  Clocks now{};
  if (api_->clock(device_, kClockSm, &now.sm_mhz) != 0 || api_->clock(device_, kClockMemory, &now.memory_mhz) != 0)
    return std::nullopt;
  return now;
}

}  // namespace samebits::cli
