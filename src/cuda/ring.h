// How a Ring kernel (ring.cuh) cuts a problem: pure arithmetic, readable and testable without nvcc.
#pragma once
#include <algorithm>
#include <cstdint>

namespace samebits::cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// Bytes of K in one row of a shared-memory box: the span of the 128-byte swizzle.
inline constexpr int kChunkBytes = 128;
inline constexpr int kMaxStages = 24;
/// Shared memory beside the dynamic one: two barriers for each stage, rounded up.
inline constexpr int kStaticBytes = 512;
static_assert(kStaticBytes >= 2 * 8 * kMaxStages);

/// Edge of a block that shares a scale (OrderSpec::scale_block), and the floats that the scales of one chunk take in
/// shared memory: of `cols` tokens, then of `blocks` MMA blocks.
inline constexpr int kScaleBlock = 128;
constexpr int scale_floats(int blocks, int cols) { return cols + static_cast<int>(round_up(blocks, 4)); }

/// What is fixed when a Ring kernel is compiled.
struct RingShape {
  int blocks;     ///< MMA blocks of 64 weight rows in one thread block
  int cols;       ///< token columns of the MMA
  int chunks;     ///< chunks of 128 bytes of K in one stage
  int cluster;    ///< thread blocks of a cluster that share a token tile, each with weight rows of its own
  int staging;    ///< bytes of shared memory for the epilogue
  bool whole_sm;  ///< stages may fill the SM; else half of it, so that the next kernel can start beside this one
  int ratio = 1;  ///< bytes of a token element over those of a weight element; chunks count the tokens' bytes
  bool block_scales = false;  ///< a stage has scales, and no MMA block crosses a block of kScaleBlock channels
  int cluster_y = 1;          ///< thread blocks of a cluster that share a weight tile, each with tokens of its own
};

/// What a launch adds: which rows and columns a thread block loads, and in which order tiles run.
struct RingGeometry {
  int rows;      ///< weight rows a 64-row MMA block really holds, a multiple of 8
  int box_rows;  ///< weight rows in one TMA box: each block that shares the weight loads one for all of them
  int box_cols;  ///< token rows in one TMA box, likewise, past the last token too
  int stages;
  int tiles_x, tiles_y;  ///< tiles of a cluster along the weight and along the tokens
  int group;             ///< clusters that run side by side share a weight tile and take so many token tiles
  int early;             ///< stages of weights fetched before the kernel before has ended (kWeight, kChain)
  int prefetch;          ///< and so many after those into L2
  int slots;             ///< clusters that run at once
  int clusters;          ///< clusters launched
  int x_bytes, y_bytes;  ///< shared memory of one stage
  int shared_memory;     ///< dynamic shared memory of a thread block
};

/// Clusters of `cluster` blocks that run at once, a block on each of `sms`: an estimate, for who cannot ask the driver.
/// A cluster lies within a GPC, whose SMs are always a multiple of two, but not of four: one H100's 132 hold 30,
/// not 33.
constexpr int64_t cluster_slots(int sms, int cluster) {
  return std::max(1, cluster > 2 ? sms / cluster * 10 / 11 : sms / cluster);
}

/// The geometry of one launch. Pure. `k_bytes`: bytes of K in a token row. `slots`: clusters that run at once.
RingGeometry ring_geometry(const RingShape& shape, int64_t m, int64_t n, int64_t k_bytes, int64_t slots,
                           int64_t shared_memory);

}  // namespace samebits::cuda
