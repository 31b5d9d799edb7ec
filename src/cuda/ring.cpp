// See ring.h.
#include "cuda/ring.h"

#include <algorithm>

namespace samebits::cuda {

// The wave model. A 64-row MMA block costs the same however many rows it holds, so fewer rows for each block are free
// as long as loading them is the bottleneck: they spread a small weight over all SMs and even out the last wave.
// Clocks for each byte of K: the tensor cores do 4096 FP8 multiply-adds a clock, and an SM takes in about 48 bytes.
// What a cluster shares is read once for all its blocks, and it is the reading that is short (docs/measured.md).
RingGeometry ring_geometry(const RingShape& s, int64_t m, int64_t n, int64_t k_bytes, int64_t slots,
                           int64_t shared_memory) {
  constexpr double kMacs = 4096, kBytesIn = 48, kTileClocks = 2500;
  RingGeometry g{};
  const int blocks_y = static_cast<int>(ceil_div(m, s.cols));
  g.tiles_y = static_cast<int>(ceil_div(blocks_y, s.cluster_y));
  const int64_t cols = blocks_y > 1 ? s.cols : std::min<int64_t>(m, s.cols);
  // Boxes and chunks that lie side by side are whole swizzle atoms of 8 rows. Note: every block of a cluster loads one,
  // of zeros past the last token: where some had none to load, launches that fetch weights early hung
  // (docs/measured.md).
  const int64_t unit = s.cluster == 1 && s.chunks == 1 ? 1 : 8;
  g.box_cols = static_cast<int>(round_up(ceil_div(cols, s.cluster), unit));
  double best = 0;
  for (int rows = 64; rows >= 8; rows -= 8) {
    if ((s.block_scales && kScaleBlock % rows) || rows * s.blocks % (8 * s.cluster_y)) continue;
    const int64_t tiles_x = ceil_div(n, static_cast<int64_t>(rows) * s.blocks * s.cluster);
    const double waves = static_cast<double>(ceil_div(tiles_x * g.tiles_y, slots));
    const double mma = 64.0 * s.blocks * s.cols / kMacs;
    const double load =
        (1.0 * rows * s.blocks / s.ratio / s.cluster_y + static_cast<double>(cols) / s.cluster) / kBytesIn;
    const double cost = waves * (std::max(mma, load) * static_cast<double>(k_bytes) + kTileClocks);
    if (g.rows && cost >= best * 0.999) continue;
    best = cost;
    g.rows = rows;
    g.tiles_x = static_cast<int>(tiles_x);
  }
  g.box_rows = g.rows * s.blocks / s.cluster_y;
  g.slots = static_cast<int>(slots);
  g.clusters = static_cast<int>(std::clamp<int64_t>(int64_t{g.tiles_x} * g.tiles_y, 1, slots));
  // Which tiles run side by side decides how often what they load meets on its way out of L2 (docs/measured.md):
  // neighbours share a weight and take other tokens, so many, before the weight moves on.
  const int tokens = s.cluster * s.cluster_y > 1 ? 4096 : s.block_scales ? 2048 : 768;
  g.group = std::clamp(tokens / (s.cols * s.cluster_y), 1, g.tiles_y);
  g.x_bytes = s.chunks / s.ratio * s.blocks * g.rows * kChunkBytes;
  g.y_bytes = s.chunks * static_cast<int>(round_up(g.box_cols * s.cluster, 8)) * kChunkBytes;
  // The MMA reads 64 rows and all columns of the last slot, whatever was loaded: they must lie in shared memory.
  const int overrun = std::max(64 - g.rows, s.cols - g.y_bytes / (s.chunks * kChunkBytes)) * kChunkBytes;
  const int fixed = 1024 + kStaticBytes + s.staging + overrun;
  const int64_t budget = (s.whole_sm ? shared_memory : shared_memory / 2 - 2048) - fixed;
  const int64_t steps =
      ceil_div(k_bytes, s.chunks * kChunkBytes) * ceil_div(int64_t{g.tiles_x} * g.tiles_y, g.clusters);
  const int scales = s.block_scales ? s.chunks * scale_floats(s.blocks, s.cols) * static_cast<int>(sizeof(float)) : 0;
  const int stage = g.x_bytes + g.y_bytes + scales;
  g.stages = static_cast<int>(std::clamp<int64_t>(budget / stage, 2, kMaxStages));
  g.stages = static_cast<int>(std::min<int64_t>(g.stages, std::max<int64_t>(2, steps)));
  g.shared_memory = fixed - kStaticBytes + g.stages * stage;
  // What Overlap::kWeight and kChain fetch ahead. A small weight competes with the tokens of the kernel before, which
  // waits for them: little of it. A large one fills the ring, and some of it L2 where one token tile reads it (where
  // several do, they would ask L2 for it once more each). Measured on an H100, docs/measured.md.
  constexpr int64_t kSmall = 18 << 20, kLarge = 32 << 20, kEarly = 2 << 20;
  const int64_t weight = n * k_bytes / s.ratio, of_a_stage = int64_t{g.clusters} * s.cluster * g.x_bytes;
  g.early = static_cast<int>(weight > kSmall ? g.stages : std::clamp<int64_t>(kEarly / of_a_stage, 1, g.stages));
  if (g.tiles_y == 1 && weight > kSmall)
    g.prefetch = static_cast<int>((weight > kLarge ? 8 << 20 : 4 << 20) / of_a_stage);
  return g;
}

}  // namespace samebits::cuda
