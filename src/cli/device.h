// What the options --device, --order and --dtype mean. Used by verify, bench and info.
#pragma once
#include <string>
#include <vector>

#include "samebits/gemm.h"

namespace samebits::cli {

/// "cpu", "cuda:N", or "auto": the first GPU with kernels for every Order, else the CPU, said in one line on stderr.
/// Throws Error(kNoDevice) with the reason when the device asked for cannot be had.
const DeviceInfo& select_device(const std::string& text, const std::vector<Order>& orders);

/// "NVIDIA H100 80GB HBM3 (sm_90)" or "cpu".
std::string describe(const DeviceInfo& device);

std::vector<Order> parse_orders(const std::vector<std::string>& names);
std::vector<Dtype> parse_dtypes(const std::vector<std::string>& names);

}  // namespace samebits::cli
