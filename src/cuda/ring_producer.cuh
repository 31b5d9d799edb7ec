// The two threads of a Ring kernel that keep the ring of stages full, one of weights and one of tokens (TMA). Used by
// ring.cuh.
#pragma once
#include <cutlass/arch/grid_dependency_control.h>
#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "cuda/ring_walk.cuh"

namespace samebits::cuda {

/// R: the Ring that they fill.
template <class R>
struct RingProducer {
  using Walk = typename R::Walk;
  using Place = typename Walk::Place;
  static constexpr int kChunks = R::kChunks, kWeightChunks = R::kWeightChunks;

  static constexpr uint64_t kKeep = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_LAST);
  // A weight that one token tile reads is not read again.
  static __device__ uint64_t weight_hint(const RingParams& p) {
    return static_cast<uint64_t>(p.g.tiles_y == 1 ? cute::TMA::CacheHintSm90::EVICT_FIRST
                                                  : cute::TMA::CacheHintSm90::EVICT_NORMAL);
  }

  /// One box, into the shared memory of all kBlocks blocks of `sharers` where a cluster shares it.
  template <int kBlocks>
  static __device__ void load(const CUtensorMap* map, RingFull& full, uint16_t sharers, uint64_t hint, void* to,
                              int byte, int row, int chunk) {
    if constexpr (kBlocks == 1)
      cute::SM90_TMA_LOAD_3D::copy(map, reinterpret_cast<uint64_t*>(&full), hint, to, byte, row, chunk);
    else
      cute::SM90_TMA_LOAD_MULTICAST_3D::copy(map, reinterpret_cast<uint64_t*>(&full), sharers, hint, to, byte, row,
                                             chunk);
  }

  /// The whole life of the thread that loads weights. With p.early_weight, on the caller's word (Overlap), p.g.early
  /// stages of them are on their way when the kernel before ends, and p.g.prefetch more as far as L2.
  static __device__ void weights(const RingParams& p, uint8_t* ring, RingFull* full, RingEmpty* empty) {
    const int stage_bytes = p.g.x_bytes + p.g.y_bytes, each = p.whole_x ? kWeightChunks : 1;  // chunks of one load
    const int row = Walk::rank_y() * p.g.box_rows;                                            // of this block's boxes
    const uint64_t hint = weight_hint(p);
    const auto fetch = [&](const Place& at, int stage) {
      full[stage].arrive_and_expect_tx(p.g.x_bytes);
      for (int c = 0; c < kWeightChunks; c += each) {
        const int k = at.step * kWeightChunks + c;
        load<R::kClusterY>(&p.x, full[stage], Walk::weight_sharers(), hint,
                           ring + stage * stage_bytes + c * (p.g.x_bytes / kWeightChunks) + row * kChunkBytes,
                           p.whole_x ? 0 : k * kChunkBytes, at.x * p.g.rows + row, p.whole_x ? k : 0);
      }
    };
    Place at = Walk::begin(p);
    RingPosition to{0, 1};  // a fresh barrier counts as released
    const auto advance = [&] {
      Walk::advance(p, at);
      to.advance(p.g.stages);
    };
    if (p.early_weight) {
      for (int i = 0; i < p.g.early && !Walk::ended(p, at); ++i, advance()) fetch(at, to.stage);
      Place ahead = at;
      for (int i = 0; i < p.g.prefetch && !Walk::ended(p, ahead); ++i, Walk::advance(p, ahead))
        for (int c = 0; c < kWeightChunks; c += each) {
          const int k = ahead.step * kWeightChunks + c;
          cute::SM90_TMA_LOAD_3D::PREFETCH::copy(&p.x, p.whole_x ? 0 : k * kChunkBytes, ahead.x * p.g.rows + row,
                                                 p.whole_x ? k : 0);
        }
    }
    if (p.chain) cutlass::arch::launch_dependent_grids();
    cutlass::arch::wait_on_dependent_grids();
    if (!p.chain) cutlass::arch::launch_dependent_grids();  // what is older than the previous kernel has ended
    for (; !Walk::ended(p, at); advance()) {
      empty[to.stage].wait(to.phase);
      fetch(at, to.stage);
    }
  }

  /// The whole life of the thread that loads tokens: one of its own, so that they do not wait while weights are asked
  /// for.
  static __device__ void tokens(const RingParams& p, uint8_t* ring, RingFull* full, RingEmpty* empty) {
    const int stage_bytes = p.g.x_bytes + p.g.y_bytes, each = p.whole_y ? kChunks : 1;
    const int col = Walk::rank_x() * p.g.box_cols;
    const uint32_t tx = kChunks * p.g.box_cols * R::kClusterX * kChunkBytes;
    cutlass::arch::wait_on_dependent_grids();
    RingPosition to{0, 1};
    for (Place at = Walk::begin(p); !Walk::ended(p, at); Walk::advance(p, at), to.advance(p.g.stages)) {
      empty[to.stage].wait(to.phase);
      full[to.stage].arrive_and_expect_tx(tx);
      uint8_t* const stage = ring + to.stage * stage_bytes + p.g.x_bytes + col * kChunkBytes;
      for (int c = 0; c < kChunks; c += each) {
        const int k = at.step * kChunks + c;
        load<R::kClusterX>(&p.y, full[to.stage], Walk::token_sharers(), kKeep, stage + c * (p.g.y_bytes / kChunks),
                           p.whole_y ? 0 : k * kChunkBytes, at.y + col, p.whole_y ? k : 0);
      }
    }
  }
};

}  // namespace samebits::cuda
