// What all threads of a Ring kernel agree on without talking: the launch's parameters, which tile and step comes next,
// and where in the ring of stages it lies. Included by ring.cuh.
#pragma once
#include <cuda.h>

#include <cutlass/arch/barrier.h>

#include "cuda/ring.h"

namespace samebits::cuda {

/// Of a stage: what it was filled with has arrived; who read it has let go of it.
using RingFull = cutlass::arch::ClusterTransactionBarrier;
using RingEmpty = cutlass::arch::ClusterBarrier;

/// Strides of the block scales in floats, and how many blocks K has.
struct RingScaleParams {
  int64_t x_row_stride, x_col_stride, y_row_stride, y_col_stride;
  int blocks;
};

struct RingParams {
  CUtensorMap x, y;  // weight, tokens
  const float *scale_x, *scale_y;
  const void* bias;
  void* out;
  int64_t out_stride;
  int m, n, steps;
  bool per_channel, per_token, fp16, early_weight, chain, whole_x, whole_y, stream_out;
  RingGeometry g;
  RingScaleParams scales;  // of an Order with block scales
};

/// The walk of one thread block over its cluster's tiles: kBlocks MMA blocks of weight rows by kCols tokens in each of
/// kClusterX x kClusterY blocks.
template <int kBlocks, int kCols, int kClusterX, int kClusterY>
struct RingWalk {
  static constexpr int kBlocksOfCluster = kClusterX * kClusterY;
  struct Place {
    int tile, step;  // of the cluster's list of tiles
    int x, y;        // first weight row block of this thread block (in units of g.rows), first token
  };

  static __device__ void locate(const RingParams& p, Place& at) {
    if (p.g.tiles_y == 1) {  // what follows without its divisions, which a decode step would wait for
      at.x = (at.tile * kClusterX + rank_x()) * kBlocks;
      at.y = rank_y() * kCols;
      return;
    }
    const int per_group = p.g.group * p.g.tiles_x, group = at.tile / per_group, rest = at.tile - group * per_group;
    const int first = group * p.g.group, width = min(p.g.group, p.g.tiles_y - first);
    const int x = rest / width, y = first + rest - x * width;
    at.x = (x * kClusterX + rank_x()) * kBlocks;
    at.y = (y * kClusterY + rank_y()) * kCols;
  }
  static __device__ Place begin(const RingParams& p) {
    Place at{static_cast<int>(blockIdx.x) / kBlocksOfCluster, 0, 0, 0};
    locate(p, at);
    return at;
  }
  static __device__ bool ended(const RingParams& p, const Place& at) { return at.tile >= p.g.tiles_x * p.g.tiles_y; }
  static __device__ void advance(const RingParams& p, Place& at) {
    if (++at.step < p.steps) return;
    at.step = 0;
    next(p, at, 1);
  }
  static __device__ void next(const RingParams& p, Place& at, int tiles) {
    at.tile += tiles * p.g.clusters;
    if (!ended(p, at)) locate(p, at);
  }

  /// Of this block in its cluster. Blocks of one rank_y share tokens, those of one rank_x a weight.
  static __device__ int rank() { return static_cast<int>(blockIdx.x) % kBlocksOfCluster; }
  static __device__ int rank_x() { return kClusterX == 1 ? 0 : rank() % kClusterX; }
  static __device__ int rank_y() { return kClusterY == 1 ? 0 : rank() / kClusterX; }
  static constexpr int kSharers = kClusterX + kClusterY - 1;  ///< blocks whose loads reach this one, itself among them
  /// The rank in the cluster of sharer `i`: the blocks of its row, then the others of its column.
  static __device__ int sharer(int i) {
    if (i < kClusterX) return rank_y() * kClusterX + i;
    const int y = i - kClusterX;
    return (y + (y >= rank_y())) * kClusterX + rank_x();
  }
  static __device__ uint16_t token_sharers() { return ((1 << kClusterX) - 1) << rank_y() * kClusterX; }
  static __device__ uint16_t weight_sharers() {
    uint16_t column = 0;
    for (int y = 0; y < kClusterY; ++y) column |= 1 << y * kClusterX;
    return column << rank_x();
  }
};

/// A stage of the ring, and how often it was passed as the one bit that a barrier keeps.
struct RingPosition {
  int stage;
  uint32_t phase;
  __device__ void advance(int stages) {
    if (++stage == stages) stage = 0, phase ^= 1;
  }
  /// Over the stages of a tile that is another warpgroup's.
  __device__ void skip(int steps, int stages) {
    const int to = stage + steps;
    phase ^= to / stages & 1;
    stage = to % stages;
  }
};

}  // namespace samebits::cuda
