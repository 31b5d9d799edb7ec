// How a Ring kernel (ring.cuh) cuts a problem: pure arithmetic, readable and testable without nvcc.
#pragma once
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

/// What is fixed when a Ring kernel is compiled.
struct RingShape {
  int blocks;     ///< MMA blocks of 64 weight rows in one thread block
  int cols;       ///< token columns of the MMA
  int chunks;     ///< chunks of 128 bytes of K in one stage
  int cluster;    ///< thread blocks that share a token tile, each with weight rows of its own
  int staging;    ///< bytes of shared memory for the epilogue
  bool whole_sm;  ///< stages may fill the SM; else half of it, so that the next kernel can start beside this one
  int ratio = 1;  ///< bytes of a token element over those of a weight element; chunks count the tokens' bytes
};

/// What a launch adds: which rows and columns a thread block loads, and in which order tiles run.
struct RingGeometry {
  int rows;      ///< weight rows a 64-row MMA block really holds, a multiple of 8
  int box_cols;  ///< token rows in one TMA box (each block of a cluster loads one)
  int stages;
  int tiles_x, tiles_y;  ///< tiles along the weight (in clusters) and along the tokens
  int group;             ///< clusters along the weight that run before the next token tile: keeps both in L2
  int slots;             ///< clusters that run at once
  int clusters;          ///< clusters launched
  int x_bytes, y_bytes;  ///< shared memory of one stage
  int shared_memory;     ///< dynamic shared memory of a thread block
};

/// The geometry of one launch. Pure. `k_bytes`: bytes of K in a token row.
RingGeometry ring_geometry(const RingShape& shape, int64_t m, int64_t n, int64_t k_bytes, int sms,
                           int64_t shared_memory);

}  // namespace samebits::cuda
