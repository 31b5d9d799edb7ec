// The constants of a row's Cost from measured times. Called by fit_rules.cpp.
#pragma once
#include <span>

#include "cuda/tile.h"

namespace samebits::bench {

/// One measured time of a row.
struct Sample {
  const DeviceInfo* device;
  int64_t m, n, k;
  double us;
  double weight;  ///< of the squared error of log(us)
};

/// The Cost with which predicted_us() has the least squared relative error, rounded to three digits. Deterministic.
Cost fit_cost(Tile tile, std::span<const Sample> samples);

}  // namespace samebits::bench
