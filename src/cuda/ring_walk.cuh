// What all threads of a Ring kernel agree on without talking: the launch's parameters, which tile and step comes next,
// and where in the ring of stages it lies. Included by ring.cuh.
#pragma once
#include <cuda.h>

#include "cuda/ring.h"

namespace samebits::cuda {

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
  bool per_channel, per_token, fp16, early_weight, whole_x, whole_y, stream_out;
  RingGeometry g;
  RingScaleParams scales;  // of an Order with block scales
};

/// The walk of one thread block over its cluster's tiles: kBlocks MMA blocks of weight rows by kCols tokens.
template <int kBlocks, int kCols, int kCluster>
struct RingWalk {
  struct Place {
    int tile, step;  // of the cluster's list of tiles
    int x, y;        // first weight row block of this thread block (in units of g.rows), first token
  };

  static __device__ void locate(const RingParams& p, Place& at) {
    if (p.g.tiles_y == 1) {  // what follows without its divisions, which a decode step would wait for
      at.x = (at.tile * kCluster + rank()) * kBlocks;
      at.y = 0;
      return;
    }
    const int fast_tiles = p.g.tokens_first ? p.g.tiles_y : p.g.tiles_x;
    const int slow_tiles = p.g.tokens_first ? p.g.tiles_x : p.g.tiles_y;
    const int per_group = p.g.group * slow_tiles, group = at.tile / per_group, rest = at.tile - group * per_group;
    const int first = group * p.g.group, width = min(p.g.group, fast_tiles - first);
    const int slow = rest / width, fast = first + rest - slow * width;
    at.x = ((p.g.tokens_first ? slow : fast) * kCluster + rank()) * kBlocks;
    at.y = (p.g.tokens_first ? fast : slow) * kCols;
  }
  static __device__ Place begin(const RingParams& p) {
    Place at{static_cast<int>(blockIdx.x) / kCluster, 0, 0, 0};
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

  static __device__ int rank() { return kCluster == 1 ? 0 : static_cast<int>(blockIdx.x) % kCluster; }
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
