// How long a row is expected to take: a wave model with six constants for each row, fitted to measurements by
// bench/fit_rules.cpp. Pure arithmetic. Called by choose() for shapes that nobody measured, and between measured M.
#pragma once
#include "cuda/tile.h"

namespace samebits {

/// Output tiles of a problem on a device, counted in waves of one block on each SM.
struct Waves {
  double whole;   ///< rounded up: how often the busiest SM works
  double exact;   ///< output tiles over blocks that run at once
  double loaded;  ///< operand rows that a block loads over those that its tile could take
};

/// Tiles are cut along N and M, clusters are never split, and a device holds sms / (blocks of a cluster) clusters; a
/// Ring row's tiles are those of cuda/ring.h.
Waves waves(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k);

/// Microseconds that `tile` takes for [M,K] x [N,K] in a stream of such calls; infinity if nobody measured the row.
///
///   launch + (compute^4 + stream^4)^(1/4)
///   compute = waves.whole * (tile + k * K/1000 * (1 + contention * loaded * min(1, waves.exact) + spill * past))
///   stream  = memory * (operands + output) / bandwidth
///   past    = min(4, operands / L2)
///
/// `tile` is what an output tile costs beside its K loop, `k` a thousand elements of K on an idle machine,
/// `contention` how much slower they come when every SM loads whole tiles, `spill` when the operands pass the L2,
/// `memory` the time to stream everything once relative to the device's bandwidth; the fourth power joins the two
/// bounds smoothly. SMs and bandwidth are the device's, so constants fitted on 132 SMs are carried to another count by
/// its waves: as far as its SMs are the same. An H20's multiply more slowly; there `samebits tune` measures instead.
double predicted_us(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k);

/// A number to order rows by that nobody measured: waves.whole * (elements of the tile + 4096), where 4096 stands for
/// what a tile costs beside its elements. Not a time.
double guessed_work(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k);

}  // namespace samebits
