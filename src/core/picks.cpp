// See picks.h.
#include "core/picks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>

#include "core/cost.h"

namespace samebits {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// At each M of the grid and for each row, how far its loss is above what is allowed, on the worst of the devices.
struct Losses {
  std::vector<const Tile*> rows;
  std::vector<int64_t> m;
  std::vector<std::vector<double>> excess;  // [m][row]; infinite where the row was not measured
};

/// What was measured, and between it the M where a time can change: multiples of the narrowest tile, sparser where a
/// tile more or less matters less.
std::vector<int64_t> grid(std::span<const ShapeTimes> times) {
  std::set<int64_t> all;
  for (const ShapeTimes& t : times)
    for (const auto& [m, us] : t.us) all.insert(m);
  const int64_t first = *all.begin(), last = *all.rbegin();
  for (int64_t m = 8; m < last; m += m < 512 ? 8 : m < 4096 ? 64 : 512)
    if (m > first) all.insert(m);
  return {all.begin(), all.end()};
}

std::optional<double> measured_at(const std::map<const Tile*, double>& us, const Tile& row) {
  const auto at = us.find(&row);
  return at == us.end() ? std::nullopt : std::optional(at->second);
}

/// Microseconds of `row` at an M that was measured, or lies between two that were.
std::optional<double> time_at(const ShapeTimes& t, const Tile& row, int64_t m, int64_t n, int64_t k) {
  const auto high = t.us.lower_bound(m);
  if (high == t.us.end()) return std::nullopt;
  const auto high_us = measured_at(high->second, row);
  if (!high_us || high->first == m) return high_us;
  if (high == t.us.begin()) return std::nullopt;
  const auto low = std::prev(high);
  const auto low_us = measured_at(low->second, row);
  if (!low_us) return std::nullopt;
  const auto predicted = [&](int64_t at) {
    const double us = predicted_us(row, *t.device, at, n, k);
    return std::isfinite(us) ? us : 1;
  };
  const auto log_of = [](int64_t x) { return std::log(static_cast<double>(x)); };
  const double part = (log_of(m) - log_of(low->first)) / (log_of(high->first) - log_of(low->first));
  const double off =
      (1 - part) * std::log(*low_us / predicted(low->first)) + part * std::log(*high_us / predicted(high->first));
  return predicted(m) * std::exp(off);
}

void add_device(const ShapeTimes& t, int64_t m, int64_t n, int64_t k, const std::vector<const Tile*>& rows,
                std::vector<double>& excess) {
  std::vector<double> us;
  for (const Tile* row : rows) us.push_back(time_at(t, *row, m, n, k).value_or(kInfinity));
  const double best = *std::min_element(us.begin(), us.end());
  if (!std::isfinite(best)) return;  // nothing was measured around this M on this device
  const double allowed = t.us.contains(m) ? kMeasuredLoss : kGuessedLoss;
  for (size_t i = 0; i < rows.size(); ++i) excess[i] = std::max(excess[i], us[i] / best - 1 - allowed);
}

Losses losses_of(int64_t n, int64_t k, std::span<const ShapeTimes> times) {
  std::set<const Tile*> rows;  // one table, so in its order
  for (const ShapeTimes& t : times)
    for (const auto& [m, us] : t.us)
      for (const auto& [row, _] : us) rows.insert(row);
  Losses losses{{rows.begin(), rows.end()}, grid(times), {}};
  for (int64_t m : losses.m) {
    losses.excess.emplace_back(rows.size(), -1.0);
    // What one device measured counts for more than what is guessed of another.
    const bool measured = std::any_of(times.begin(), times.end(), [&](const auto& t) { return t.us.contains(m); });
    for (const ShapeTimes& t : times)
      if (!measured || t.us.contains(m)) add_device(t, m, n, k, losses.rows, losses.excess.back());
  }
  return losses;
}

/// The fewest picks whose rows lose no more than is allowed plus `slack`, or than the best row where that loses more:
/// each runs as far as any row can.
std::vector<Pick> picks_within(const Losses& losses, double slack) {
  const auto good = [&](size_t m, size_t row) {
    const std::vector<double>& excess = losses.excess[m];
    return excess[row] <= std::max(0.0, *std::min_element(excess.begin(), excess.end())) + slack;
  };
  std::vector<Pick> picks;
  for (size_t begin = 0; begin < losses.m.size();) {
    size_t furthest = begin, best = 0;
    double least = kInfinity;
    for (size_t row = 0; row < losses.rows.size(); ++row) {
      size_t end = begin;
      double sum = 0;
      for (; end < losses.m.size() && good(end, row); ++end) sum += losses.excess[end][row];
      if (end < furthest || (end == furthest && sum >= least)) continue;
      furthest = end;
      best = row;
      least = sum;
    }
    picks.push_back({losses.m[furthest - 1], losses.rows[best]->name});
    begin = furthest;
  }
  return picks;
}

}  // namespace

ShapeRule make_rule(Order order, int64_t n, int64_t k, std::span<const ShapeTimes> times) {
  const Losses losses = losses_of(n, k, times);
  double slack = 0;
  std::vector<Pick> picks = picks_within(losses, slack);
  while (picks.size() > kMaxPicks) picks = picks_within(losses, slack = std::max(0.002, 2 * slack));
  ShapeRule rule{order, n, k, losses.m.front(), {}};
  std::copy(picks.begin(), picks.end(), rule.picks.begin());
  return rule;
}

}  // namespace samebits
