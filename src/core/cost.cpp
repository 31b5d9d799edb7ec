// See cost.h.
#include "core/cost.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/ring.h"

namespace samebits {

using cuda::ceil_div;

namespace {

// H100 SXM: 2619 MHz, both edges, 5120 bits. For a device that does not say.
constexpr int kUsualGbps = 3352;

constexpr double kL2Bytes = 50 << 20;  // of an H100 and an H200
constexpr double kMostSpilled = 4;     // past four times the L2 nothing is found there anyway

double fourth(double x) { return x * x * x * x; }

}  // namespace

Waves waves(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k) {
  if (tile.schedule.starts_with("Ring")) {  // these rows fit their tiles to the device themselves
    const int bytes = a_bytes(tile), chunks = tile.k * bytes / cuda::kChunkBytes;
    cuda::RingShape shape{tile.m / 64, tile.n, chunks, tile.cluster_m, 0, true, bytes / b_bytes(tile)};
    shape.block_scales = spec(tile.order).scale_block != 0;
    shape.cluster_y = tile.cluster_n;
    const int64_t slots = cuda::cluster_slots(device.sms, tile.cluster_m * tile.cluster_n);
    const cuda::RingGeometry g = ring_geometry(shape, m, n, k * bytes, slots, device.shared_memory);
    const int64_t tiles = int64_t{g.tiles_x} * g.tiles_y;
    const double loaded = g.rows * shape.blocks + g.box_cols * shape.cluster, full = 64 * shape.blocks + shape.cols;
    return {static_cast<double>(ceil_div(tiles, g.clusters)), static_cast<double>(tiles) / g.slots, loaded / full};
  }
  const int64_t rows = tile.swapped ? n : m, cols = tile.swapped ? m : n;
  const int64_t clusters =
      ceil_div(rows, int64_t{tile.m} * tile.cluster_m) * ceil_div(cols, int64_t{tile.n} * tile.cluster_n);
  const int64_t slots = std::max(1, device.sms / (tile.cluster_m * tile.cluster_n));
  return {static_cast<double>(ceil_div(clusters, slots)), static_cast<double>(clusters) / static_cast<double>(slots),
          1};
}

double predicted_us(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k) {
  const Cost& cost = tile.cost;
  if (cost.launch_us == 0) return std::numeric_limits<double>::infinity();
  const auto [whole, exact, loaded] = waves(tile, device, m, n, k);
  const double dm = static_cast<double>(m), dn = static_cast<double>(n), dk = static_cast<double>(k);
  const double operands = dk * (dm * a_bytes(tile) + dn * b_bytes(tile));
  const double spilled = std::min(kMostSpilled, operands / kL2Bytes);
  const double loop =
      cost.k_us * dk / 1000 * (1 + cost.contention * loaded * std::min(1.0, exact) + cost.spill * spilled);
  const double bytes = operands + dm * dn * (tile.out == OutKind::kFloat ? 4 : 2);
  const double stream = cost.memory * bytes / (1e3 * (device.gbps > 0 ? device.gbps : kUsualGbps));
  return cost.launch_us + std::sqrt(std::sqrt(fourth(whole * (cost.tile_us + loop)) + fourth(stream)));
}

double guessed_work(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k) {
  return waves(tile, device, m, n, k).whole *
         (static_cast<double>(tile.m) * tile.n * tile.cluster_m * tile.cluster_n + 4096);
}

}  // namespace samebits
