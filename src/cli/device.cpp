// Device, Order and dtype options. No silent fallback: whatever is not taken is said.
#include "cli/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "core/choose.h"

namespace samebits::cli {
namespace {

/// Why the GPU cannot compute all of `orders`; empty if it can.
std::string why_not(const DeviceInfo& device, const std::vector<Order>& orders) {
  for (Order order : orders)
    if (const auto reason = reason_against(device.arch, order, OutKind::kHalf))
      return fmt::format("device {} is a {}, and no kernel there computes {}: {}", device.ordinal, device.name,
                         name(order), *reason);
  return "";
}

constexpr char kNoGpu[] = "this machine has no CUDA device (or no driver, or this samebits was built without CUDA)";

std::string certificate_path;

}  // namespace

void use_certificate(const std::string& path) { certificate_path = path; }

const std::vector<DeviceInfo>& gpus() {
  static const std::vector<DeviceInfo> devices = [] {
    if (certificate_path.empty()) return cuda_devices();
    const Certificate certificate = load_certificate(certificate_path);
    try {
      return certified_gpus(certificate);
    } catch (const Error& e) {
      throw Error(e.code(), fmt::format("{}: {}", certificate_path, e.what()));
    }
  }();
  return devices;
}

void DeviceChoice::announce() const {
  if (!notice.empty()) fmt::print(stderr, "samebits: {}\n", notice);
}

DeviceChoice select_device(const std::string& text, const std::vector<Order>& orders) {
  if (text == "cpu") return {cpu_device(), ""};
  const auto& devices = gpus();
  if (text == "auto") {
    std::string why = kNoGpu;
    for (const DeviceInfo& gpu : devices) {
      const std::string reason = why_not(gpu, orders);
      if (reason.empty()) return {gpu, ""};
      why = reason;
    }
    return {cpu_device(), "running on the CPU: " + why};
  }
  size_t ordinal = 0;
  const bool cuda = text.starts_with("cuda:");
  const auto [end, failed] = std::from_chars(text.data() + 5 * cuda, text.data() + text.size(), ordinal);
  if (!cuda || failed != std::errc() || end != text.data() + text.size())
    throw Error(ErrorCode::kBadInput,
                fmt::format("unknown device '{}'; there are: auto, cpu, cuda:0, cuda:1, ...", text));
  if (devices.empty()) throw Error(ErrorCode::kNoDevice, fmt::format("no device {}: {}", text, kNoGpu));
  if (ordinal >= devices.size())
    throw Error(ErrorCode::kNoDevice,
                fmt::format("no device {}: this machine has {} CUDA devices", text, devices.size()));
  const std::string reason = why_not(devices[ordinal], orders);
  if (!reason.empty()) throw Error(ErrorCode::kNoDevice, fmt::format("{}; --device cpu computes every order", reason));
  return {devices[ordinal], ""};
}

std::optional<RuleSet> load_rules_for(const std::string& path, std::span<const DeviceInfo> devices) {
  if (path.empty()) return std::nullopt;
  RuleSet rules = load_rules(path);
  const auto holds = [&](const DeviceInfo& device) { return rules.holds_for(device); };
  if (std::none_of(devices.begin(), devices.end(), holds)) {
    try {
      check_rules(rules, devices.front());
    } catch (const Error& e) {
      throw Error(e.code(), fmt::format("{}: {}", path, e.what()));
    }
  }
  return rules;
}

std::vector<Order> parse_orders(const std::vector<std::string>& names) {
  std::vector<Order> orders;
  for (const std::string& name : names) orders.push_back(parse_order(name));
  return orders;
}

std::vector<Dtype> parse_dtypes(const std::vector<std::string>& names) {
  std::vector<Dtype> dtypes;
  for (const std::string& text : names) {
    const auto dtype = parse_dtype(text);
    if (!dtype) throw Error(ErrorCode::kBadInput, fmt::format("unknown dtype '{}'; there are: bf16, fp16", text));
    dtypes.push_back(*dtype);
  }
  return dtypes;
}

}  // namespace samebits::cli
