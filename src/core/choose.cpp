// Picks a row of the tables: pure, and free to look at M as much as it likes, because every row of an Order has the
// same bits. Called by gemm(), `samebits info`, the benchmarks and the tests.
#include "core/choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/cost.h"
#include "cuda/cuda.h"

namespace samebits {
namespace {

constexpr int kFirstBf16 = 80, kFirstFp8 = 89;  // compute capabilities with such a matrix unit

/// The row of the architecture, or one of another if there is none: two tables may use the same names.
const Tile* find(int arch, std::string_view name) {
  const Tile* found = nullptr;
  for (const Tile& tile : cuda::tiles())
    if (tile.name == name && (!found || tile.arch == arch)) found = &tile;
  return found;
}

Plan plan_of(const Tile& tile, Source source = Source::kOnly, int64_t max_m = 0, double us = 0) {
  return {&tile, tile.name, source, max_m, us, 0};
}

/// What was measured for this shape, or null. Its row may still be one that the problem does not fit.
const Pick* find_pick(std::span<const ShapeRule> rules, Order order, int64_t m, int64_t n, int64_t k) {
  for (const ShapeRule& rule : rules) {
    if (rule.n != n || rule.k != k || rule.order != order || m < rule.min_m) continue;
    for (const Pick& pick : rule.picks)
      if (m <= pick.max_m) return &pick;
  }
  return nullptr;
}

[[noreturn]] void refuse(const DeviceInfo& device, Order order, int64_t m, int64_t n, int64_t k, Dtype out,
                         const std::string& why) {
  throw Error(ErrorCode::kUnsupported, fmt::format("no kernel on {} computes {} with {} output for m={} n={} k={}: {}",
                                                   describe(device), name(order), name(out), m, n, k, why));
}

/// Why no row of the Order takes the problem: the last reason met.
std::string why_none(const DeviceInfo& device, Order order, int64_t m, int64_t n, int64_t k, Dtype out,
                     bool weight_only) {
  std::string why = reason_against(device.arch, order, out_kind(out))
                        .value_or(weight_only ? "no row of this Order takes an e4m3 weight" : "");
  for (const Tile& tile : cuda::tiles())
    if (tile.order == order && tile.weight_only == weight_only && tile.arch == device.arch && tile.out == out_kind(out))
      if (const auto reason = reason_not(tile, device, m, n, k, out)) why = *reason;
  return why;
}

}  // namespace

std::optional<std::string> reason_not(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k,
                                      Dtype out) {
  if (tile.arch != device.arch) return fmt::format("{} is built for sm_{}", tile.name, tile.arch);
  if (tile.out != out_kind(out)) return fmt::format("{} does not write {}", tile.name, name(out));
  if (tile.kernel->shared_memory > device.shared_memory)
    return fmt::format("{} needs {} bytes of shared memory, the device has {}", tile.name, tile.kernel->shared_memory,
                       device.shared_memory);
  if (const int64_t step = alignment(tile.order); k % step || n % step)
    return fmt::format("K={} and N={} must be multiples of {} (a linear layer pads its weight once)", k, n, step);
  if (std::max({m, n, k}) > INT32_MAX) return fmt::format("a dimension exceeds {}", INT32_MAX);
  const int64_t k_bytes = k * a_bytes(tile);
  if (k_bytes > INT32_MAX) return fmt::format("K={} is {} bytes; a load addresses {}", k, k_bytes, INT32_MAX);
  return std::nullopt;
}

std::optional<std::string> reason_against(int arch, Order order, OutKind out) {
  if (arch < kFirstBf16)
    return fmt::format("sm_{} has neither an FP8 nor a BF16 matrix unit; sm_{} is the first with kernels", arch,
                       kFirstBf16);
  if (arch < kFirstFp8 && spec(order).operands == Operands::kFp8)
    return fmt::format("sm_{} has no FP8 matrix unit; sm_{} is the first with one", arch, kFirstFp8);
  const auto archs = cuda::archs();
  if (std::find(archs.begin(), archs.end(), arch) == archs.end())
    return fmt::format("this build has no kernels for sm_{}", arch);
  std::string others;
  for (const OrderSpec& other : kOrders) {
    const auto computes = [&](const Tile& t) { return t.arch == arch && t.order == other.order && t.out == out; };
    if (std::none_of(cuda::tiles().begin(), cuda::tiles().end(), computes)) continue;
    if (other.order == order) return std::nullopt;
    others += (others.empty() ? "" : ", ") + std::string(other.name);
  }
  return fmt::format("there is no row of this Order for sm_{}; it has rows of: {}", arch,
                     others.empty() ? "no Order with this output" : others);
}

Plan choose(const DeviceInfo& device, Order order, int64_t m, int64_t n, int64_t k, Dtype out, const RuleSet* rules,
            bool weight_only) {
  if (k <= 0) bad_input("K is {}: m={} n={} k={}", k, m, n, k);
  if (device.is_cpu()) return {nullptr, "cpu"};
  const auto fits = [&](const Tile& tile) {
    return tile.order == order && tile.weight_only == weight_only && tile.arch == device.arch &&
           tile.out == out_kind(out) && !reason_not(tile, device, m, n, k, out);
  };
  if (!device.certified) {
    for (std::string_view fixed : cuda::fixed_tiles())
      if (const Tile* tile = find(device.arch, fixed); tile && fits(*tile)) return plan_of(*tile, Source::kFixed);
    refuse(device, order, m, n, k, out, why_none(device, order, m, n, k, out, weight_only));
  }
  const auto measured = [&](std::span<const ShapeRule> shapes, Source source) -> std::optional<Plan> {
    const Pick* pick = find_pick(shapes, order, m, n, k);
    const Tile* tile = pick ? find(device.arch, pick->kernel) : nullptr;
    if (!tile || !fits(*tile)) return std::nullopt;
    return plan_of(*tile, source, pick->max_m);
  };
  if (rules && rules->holds_for(device))
    if (const auto plan = measured(rules->shapes, Source::kRules)) return *plan;
  if (const auto plan = measured(cuda::measured(device), Source::kMeasured)) return *plan;
  const Tile* best = nullptr;
  double best_us = 0;
  for (const Tile& tile : cuda::tiles()) {
    if (!fits(tile)) continue;
    const double us = predicted_us(tile, device, m, n, k);
    const auto less_work = [&] { return guessed_work(tile, device, m, n, k) < guessed_work(*best, device, m, n, k); };
    if (!best || us < best_us || (us == best_us && std::isinf(us) && less_work())) best = &tile, best_us = us;
  }
  if (!best) refuse(device, order, m, n, k, out, why_none(device, order, m, n, k, out, weight_only));
  return plan_of(*best, Source::kPredicted, 0, best_us);
}

Plan choose_named(const DeviceInfo& device, std::string_view kernel, int64_t m, int64_t n, int64_t k, Dtype out) {
  if (kernel == "cpu" && device.is_cpu()) return {nullptr, "cpu"};
  const Tile* tile = find(device.arch, kernel);
  if (!tile) throw Error(ErrorCode::kBadInput, fmt::format("there is no kernel called '{}' in this build", kernel));
  if (const auto reason = reason_not(*tile, device, m, n, k, out)) refuse(device, tile->order, m, n, k, out, *reason);
  return plan_of(*tile);
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
