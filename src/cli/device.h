// What the options --device, --rules, --order and --dtype mean. Used by every command that picks a kernel.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "samebits/prove.h"
#include "samebits/rules.h"

namespace samebits::cli {

/// A device and what the user must know about it.
struct DeviceChoice {
  const DeviceInfo& device;
  std::string notice;  ///< that the CPU was taken, and why; empty if nothing was left to choose
  /// Prints the notice on stderr. Called once the input is read, so that an error about it stands alone.
  void announce() const;
};

/// Remembers the path of --certificate. It is read by the first call of gpus().
void use_certificate(const std::string& path);

/// The CUDA devices, certified where the certificate holds. Throws what load_certificate() throws, and Error(kBadInput)
/// where there are GPUs and it holds for none.
const std::vector<DeviceInfo>& gpus();

/// "cpu", "cuda:N", or "auto": the first GPU with kernels for every Order, else the CPU. Throws Error(kNoDevice) with
/// the reason when the device asked for cannot be had.
DeviceChoice select_device(const std::string& text, const std::vector<Order>& orders);

/// The rules of --rules FILE, or nothing for no file. Throws Error(kBadInput) where the file is not one, or holds for
/// none of `devices`.
std::optional<RuleSet> load_rules_for(const std::string& path, std::span<const DeviceInfo> devices);

std::vector<Order> parse_orders(const std::vector<std::string>& names);
std::vector<Dtype> parse_dtypes(const std::vector<std::string>& names);

}  // namespace samebits::cli
