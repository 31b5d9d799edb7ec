// The block scales of a Ring kernel (OrderSpec::scale_block): a warp beside the producer copies those of each stage
// into shared memory, ahead of their use like the stage itself, and each chain is multiplied by them as it is added.
// Used by ring.cuh.
#pragma once
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/grid_dependency_control.h>
#include <cute/arch/util.hpp>

#include "cuda/ring_walk.cuh"

namespace samebits::cuda {

/// kBlocks: 64-row MMA blocks of a thread block. A chunk of 128 elements of K has kCols token scales, then one weight
/// scale for each MMA block: its rows never cross a block of 128 channels (ring.cpp).
template <class Walk, int kBlocks, int kCols, int kChunks>
struct RingScales {
  static constexpr int kChunkFloats = scale_floats(kBlocks, kCols), kStageFloats = kChunks * kChunkFloats;
  static constexpr int kWarp = 32;  ///< arrivals on a stage's full barrier beside the producer's
  using Full = cutlass::arch::ClusterTransactionBarrier;
  using Empty = cutlass::arch::ClusterBarrier;

  // Zero where there is no such token, channel or block of K.
  static __device__ void copy(float* to, const float* from, bool exists) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(cute::cast_smem_ptr_to_uint(to)), "l"(from),
                 "r"(exists ? 4 : 0)
                 : "memory");
  }

  /// The whole life of the warp that copies.
  static __device__ void produce(const RingParams& p, float* stages, Full* full, Empty* empty) {
    const RingScaleParams& s = p.scales;
    const int lane = threadIdx.x % 32;
    cutlass::arch::wait_on_dependent_grids();
    RingPosition at{0, 1};  // a fresh barrier counts as released
    for (auto place = Walk::begin(p); !Walk::ended(p, place); Walk::advance(p, place), at.advance(p.g.stages)) {
      empty[at.stage].wait(at.phase);
      float* const stage = stages + at.stage * kStageFloats;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int block = place.step * kChunks + c;
#pragma unroll
        for (int i = 0; i < (kCols + 31) / 32; ++i) {
          const int column = lane + 32 * i, token = place.y + column;
          const bool exists = token < p.m && block < s.blocks;
          if (kCols % 32 == 0 || column < kCols)
            copy(stage + c * kChunkFloats + column,
                 p.scale_y + (exists ? token * s.y_row_stride + block * s.y_col_stride : 0), exists);
        }
        if (lane < kBlocks) {
          const int channel = (place.x + lane) * p.g.rows;
          const bool exists = channel < p.n && block < s.blocks;
          copy(stage + c * kChunkFloats + kCols + lane,
               p.scale_x + (exists ? channel / kScaleBlock * s.x_row_stride + block * s.x_col_stride : 0), exists);
        }
      }
      cutlass::arch::cpasync_barrier_arrive_noinc(reinterpret_cast<uint64_t*>(&full[at.stage]));
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
