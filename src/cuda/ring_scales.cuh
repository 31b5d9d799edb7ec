// The block scales of a Ring kernel (OrderSpec::scale_block): a warp beside the producers copies those of each stage
// into shared memory, ahead of their use like the stage itself, and each chain is multiplied by them as it is added.
// Used by ring.cuh.
#pragma once
#include <cutlass/arch/grid_dependency_control.h>
#include <cute/arch/util.hpp>

#include "cuda/ring_walk.cuh"

namespace samebits::cuda {

/// kBlocks: 64-row MMA blocks of a thread block. A chunk of 128 elements of K has kCols token scales, then one weight
/// scale for each MMA block: its rows never cross a block of 128 channels (ring.cpp).
template <class Walk, int kBlocks, int kCols, int kChunks>
struct RingScales {
  static constexpr int kChunkFloats = scale_floats(kBlocks, kCols), kStageFloats = kChunks * kChunkFloats;
  static constexpr int kWarp = 32;  ///< arrivals on a stage's full barrier beside the producers'

  static __device__ void copy(float* to, const float* from, bool exists) {  // zero if there is nothing to copy
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(cute::cast_smem_ptr_to_uint(to)), "l"(from),
                 "r"(exists ? 4 : 0)
                 : "memory");
  }

  /// The whole life of the warp that copies. What no output of this tile needs keeps any value.
  /// Note: addresses only move on from step to step: computed anew, they were slower than the multiplications.
  static __device__ void produce(const RingParams& p, float* stages, RingFull* full, RingEmpty* empty) {
    const RingScaleParams& s = p.scales;
    const int lane = threadIdx.x % 32;
    const int64_t next = 32 * s.y_row_stride;
    cutlass::arch::wait_on_dependent_grids();
    RingPosition at{0, 1};  // a fresh barrier counts as released
    for (auto place = Walk::begin(p); !Walk::ended(p, place); Walk::next(p, place, 1)) {
      const int tokens = min(kCols, p.m - place.y) - lane, channel = (place.x + lane) * p.g.rows;
      const bool weight = lane < kBlocks && channel < p.n;
      const float* y = p.scale_y + (place.y + lane) * s.y_row_stride;
      const float* x = p.scale_x + channel / kScaleBlock * s.x_row_stride;
      for (int step = 0; step < p.steps; ++step, at.advance(p.g.stages)) {
        float* to = stages + at.stage * kStageFloats + lane;
        empty[at.stage].wait(at.phase);
#pragma unroll
        for (int c = 0; c < kChunks; ++c, to += kChunkFloats, x += s.x_col_stride, y += s.y_col_stride) {
          const bool exists = kChunks == 1 || step * kChunks + c < s.blocks;
          const float* from = exists ? y : p.scale_y;
#pragma unroll
          for (int i = 0; i < (kCols + 31) / 32; ++i, from += exists ? next : 0)
            if (32 * i < tokens) copy(to + 32 * i, from, exists);
          if (weight) copy(to + kCols, exists ? x : p.scale_x, exists);
        }
        cutlass::arch::cpasync_barrier_arrive_noinc(reinterpret_cast<uint64_t*>(&full[at.stage]));
      }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");  // nothing may arrive for a warp that has ended
  }

  /// total = fma(chain, token's scale * weight's scale, total) with the scales of chunk c of a stage, for the MMA
  /// blocks from first_block on. Accumulators 4 j and 4 j + 1 are columns 8 j + 2 * (lane % 4) and the next one of a
  /// row, 4 j + 2 and 4 j + 3 the same of another row of the MMA block.
  template <int kOwn, int kAcc>
  static __device__ void add(float (&total)[kOwn][kAcc], const float (&chain)[kOwn][kAcc], const float* stage, int c,
                             int first_block, bool exists) {
    const float* const scales = stage + c * kChunkFloats;
    // Past the end of K the token scales are +0 and the chain is +0: with -1 the fma adds -0, which changes no total,
    // not even one of -0.
    float weight[kOwn];
#pragma unroll
    for (int b = 0; b < kOwn; ++b) weight[b] = kChunks == 1 || exists ? scales[kCols + first_block + b] : -1.0f;
#pragma unroll
    for (int j = 0; j < kAcc / 4; ++j) {
      const float2 token = *reinterpret_cast<const float2*>(scales + 8 * j + threadIdx.x % 4 * 2);
#pragma unroll
      for (int b = 0; b < kOwn; ++b) {
        const float scale[2] = {__fmul_rn(token.x, weight[b]), __fmul_rn(token.y, weight[b])};
#pragma unroll
        for (int i = 0; i < 4; ++i)
          total[b][4 * j + i] = __fmaf_rn(chain[b][4 * j + i], scale[i % 2], total[b][4 * j + i]);
      }
    }
  }
};

}  // namespace samebits::cuda
