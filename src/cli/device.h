// What the options --device, --order and --dtype mean. Used by verify, bench and info.
#pragma once
#include <string>
#include <vector>

#include "samebits/gemm.h"

namespace samebits::cli {

/// A device and what the user must know about it.
struct DeviceChoice {
  const DeviceInfo& device;
  std::string notice;  ///< that the CPU was taken, and why; empty if nothing was left to choose
  /// Prints the notice on stderr. Called once the input is read, so that an error about it stands alone.
  void announce() const;
};

/// "cpu", "cuda:N", or "auto": the first GPU with kernels for every Order, else the CPU. Throws Error(kNoDevice) with
/// the reason when the device asked for cannot be had.
DeviceChoice select_device(const std::string& text, const std::vector<Order>& orders);

std::vector<Order> parse_orders(const std::vector<std::string>& names);
std::vector<Dtype> parse_dtypes(const std::vector<std::string>& names);

}  // namespace samebits::cli
