// The thread of a Ring kernel that keeps the ring of stages full of weights and tokens (TMA). Used by ring.cuh.
#pragma once
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/grid_dependency_control.h>
#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "cuda/ring_walk.cuh"

namespace samebits::cuda {

/// R: the Ring that it fills.
template <class R>
struct RingProducer {
  using Walk = typename R::Walk;
  using Place = typename Walk::Place;
  using Full = cutlass::arch::ClusterTransactionBarrier;
  using Empty = cutlass::arch::ClusterBarrier;
  static constexpr int kChunks = R::kChunks, kWeightChunks = R::kWeightChunks;

  static constexpr uint64_t kKeep = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_LAST);
  // A weight that one token tile reads is not read again.
  static __device__ uint64_t weight_hint(const RingParams& p) {
    return static_cast<uint64_t>(p.g.tiles_y == 1 ? cute::TMA::CacheHintSm90::EVICT_FIRST
                                                  : cute::TMA::CacheHintSm90::EVICT_NORMAL);
  }

  /// One box, into the shared memory of all kBlocks blocks of `sharers` where a cluster shares it.
  template <int kBlocks>
  static __device__ void load(const CUtensorMap* map, Full& full, uint16_t sharers, uint64_t hint, void* to, int byte,
                              int row, int chunk) {
    if constexpr (kBlocks == 1)
      cute::SM90_TMA_LOAD_3D::copy(map, reinterpret_cast<uint64_t*>(&full), hint, to, byte, row, chunk);
    else
      cute::SM90_TMA_LOAD_MULTICAST_3D::copy(map, reinterpret_cast<uint64_t*>(&full), sharers, hint, to, byte, row,
                                             chunk);
  }

  /// The whole life of the thread.
  static __device__ void produce(const RingParams& p, uint8_t* ring, Full* full, Empty* empty) {
    const int stage_bytes = p.g.x_bytes + p.g.y_bytes;
    const uint32_t tx = p.g.x_bytes + kChunks * p.g.box_cols * p.g.boxes_y * kChunkBytes;
    const int each_x = p.whole_x ? kWeightChunks : 1, each_y = p.whole_y ? kChunks : 1;  // chunks of one load
    const int row = Walk::rank_y() * p.g.box_rows, col = Walk::rank_x() * p.g.box_cols;  // of this block's boxes
    const auto load_x = [&](const Place& at, int stage) {
      full[stage].arrive_and_expect_tx(tx);
      for (int c = 0; c < kWeightChunks; c += each_x) {
        const int k = at.step * kWeightChunks + c;
        load<R::kClusterY>(&p.x, full[stage], Walk::weight_sharers(), weight_hint(p),
                           ring + stage * stage_bytes + c * (p.g.x_bytes / kWeightChunks) + row * kChunkBytes,
                           p.whole_x ? 0 : k * kChunkBytes, at.x * p.g.rows + row, p.whole_x ? k : 0);
      }
    };
    const auto load_y = [&](const Place& at, int stage) {
      if (R::kClusterX > 1 && Walk::rank_x() >= p.g.boxes_y) return;
      for (int c = 0; c < kChunks; c += each_y) {
        uint8_t* to = ring + stage * stage_bytes + p.g.x_bytes + c * (p.g.y_bytes / kChunks);
        const int k = at.step * kChunks + c, byte = p.whole_y ? 0 : k * kChunkBytes, chunk = p.whole_y ? k : 0;
        load<R::kClusterX>(&p.y, full[stage], Walk::token_sharers(), kKeep, to + col * kChunkBytes, byte, at.y + col,
                           chunk);
      }
    };
    Place at = Walk::begin(p);
    int filled = 0;
    if (p.early_weight) {
      Place ahead = at;
      for (; filled < p.g.stages && !Walk::ended(p, ahead); ++filled, Walk::advance(p, ahead)) load_x(ahead, filled);
      for (int i = 0; i < p.g.prefetch && !Walk::ended(p, ahead);
           ++i, Walk::advance(p, ahead))  // the rest as far as L2
        for (int c = 0; c < kWeightChunks; c += each_x) {
          const int k = ahead.step * kWeightChunks + c;
          cute::SM90_TMA_LOAD_3D::PREFETCH::copy(&p.x, p.whole_x ? 0 : k * kChunkBytes, ahead.x * p.g.rows + row,
                                                 p.whole_x ? k : 0);
        }
    }
    cutlass::arch::wait_on_dependent_grids();
    cutlass::arch::launch_dependent_grids();  // after the wait: what is older than the previous kernel has ended
    RingPosition to{0, 1};                    // a fresh barrier counts as released
    for (; !Walk::ended(p, at); Walk::advance(p, at), to.advance(p.g.stages)) {
      empty[to.stage].wait(to.phase);
      if (filled > 0)
        --filled;
      else
        load_x(at, to.stage);
      load_y(at, to.stage);
    }
  }
};

}  // namespace samebits::cuda
