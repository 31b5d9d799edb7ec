// From measured times to a ShapeRule: as few picks as keep every M near its best row. Called by `samebits tune` and
// bench/fit_rules.cpp.
#pragma once
#include <map>
#include <span>
#include <vector>

#include "cuda/tile.h"

namespace samebits {

/// Times of one weight shape on one device: microseconds of each row at each M, in order of M. A row that is missing at
/// an M was not measured there.
struct ShapeTimes {
  const DeviceInfo* device;
  std::map<int64_t, std::map<const Tile*, double>> us;
};

/// What the rows of a rule may lose, relative to the best row: where M was measured, and between two measured M, where
/// the times are guesses.
inline constexpr double kMeasuredLoss = 0.005, kGuessedLoss = 0.05;

/// The rule for [N,K] that holds on all the devices. Between two measured M a row's time is predicted_us(), corrected
/// by what it was off at both. Where no row is within the loss on every device, the one that comes nearest. `times`
/// must hold at least one M.
ShapeRule make_rule(Order order, int64_t n, int64_t k, std::span<const ShapeTimes> times);

}  // namespace samebits
