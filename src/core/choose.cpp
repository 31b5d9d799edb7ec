// Picks a row of the tables: pure, and free to look at M as much as it likes, because every row of an Order has the
// same bits. Called by gemm(), `samebits info`, the benchmarks and the tests.
#include "core/choose.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "cuda/cuda.h"

namespace samebits {
namespace {

const Tile* find(std::string_view name) {
  for (const Tile& tile : cuda::tiles())
    if (tile.name == name) return &tile;
  return nullptr;
}

Plan plan_of(const Tile& tile, int rule) { return {&tile, tile.name, rule, 0}; }

[[noreturn]] void refuse(const DeviceInfo& device, Order order, int64_t m, int64_t n, int64_t k, Dtype out,
                         const std::string& why) {
  throw Error(ErrorCode::kUnsupported, fmt::format("no kernel on {} computes {} with {} output for m={} n={} k={}: {}",
                                                   describe(device), name(order), name(out), m, n, k, why));
}

}  // namespace

std::optional<std::string> reason_not(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k,
                                      Dtype out) {
  if (tile.arch != device.arch) return fmt::format("{} is built for sm_{}", tile.name, tile.arch);
  if (tile.out != out_kind(out)) return fmt::format("{} does not write {}", tile.name, name(out));
  if (tile.kernel->shared_memory > device.shared_memory)
    return fmt::format("{} needs {} bytes of shared memory, the device has {}", tile.name, tile.kernel->shared_memory,
                       device.shared_memory);
  if (k % kAlignment || n % kAlignment)
    return fmt::format("K={} and N={} must be multiples of {} (a linear layer pads its weight once)", k, n, kAlignment);
  if (std::max({m, n, k}) > INT32_MAX) return fmt::format("a dimension exceeds {}", INT32_MAX);
  return std::nullopt;
}

Plan choose(const DeviceInfo& device, Order order, int64_t m, int64_t n, int64_t k, Dtype out) {
  if (k <= 0) bad_input("K is {}: m={} n={} k={}", k, m, n, k);
  if (device.is_cpu()) return {nullptr, "cpu", -1, 0};
  std::string why = fmt::format("there is no row of this Order for sm_{}", device.arch);
  const auto fits = [&](const Tile& tile) {
    if (tile.order != order || tile.arch != device.arch || tile.out != out_kind(out)) return false;
    const auto reason = reason_not(tile, device, m, n, k, out);
    if (reason) why = *reason;
    return !reason;
  };
  if (!device.certified) {
    for (std::string_view fixed : cuda::fixed_tiles())
      if (const Tile* tile = find(fixed); tile && fits(*tile)) return plan_of(*tile, -1);
    refuse(device, order, m, n, k, out, why);
  }
  const auto rules = cuda::rules();
  for (size_t i = 0; i < rules.size(); ++i) {
    const Rule& rule = rules[i];
    if (m > rule.max_m || n < rule.min_n || k < rule.min_k) continue;
    if (const Tile* tile = find(rule.tile); tile && fits(*tile)) return plan_of(*tile, static_cast<int>(i));
  }
  refuse(device, order, m, n, k, out, why);
}

Plan choose_named(const DeviceInfo& device, std::string_view kernel, int64_t m, int64_t n, int64_t k, Dtype out) {
  if (kernel == "cpu" && device.is_cpu()) return {nullptr, "cpu", -1, 0};
  const Tile* tile = find(kernel);
  if (!tile) throw Error(ErrorCode::kBadInput, fmt::format("there is no kernel called '{}' in this build", kernel));
  if (const auto reason = reason_not(*tile, device, m, n, k, out)) refuse(device, tile->order, m, n, k, out, *reason);
  return plan_of(*tile, -1);
}

std::vector<std::string_view> kernels(const DeviceInfo& device, Order order, Dtype out) {
  if (device.is_cpu()) return {"cpu"};
  std::vector<std::string_view> names;
  for (const Tile& tile : cuda::tiles())
    if (tile.order == order && !reason_not(tile, device, kAlignment, kAlignment, kAlignment, out))
      names.push_back(tile.name);
  return names;
}

}  // namespace samebits
