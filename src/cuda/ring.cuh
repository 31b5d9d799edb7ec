// One row of a Hopper table that CUTLASS's collectives do not cover: a persistent kernel in which two threads keep a
// ring of shared-memory stages full and warpgroups multiply (wgmma). The weight is the MMA's first operand. What it
// adds: weight rows and token rows are loaded as many as there are (no padding through TMA, ring.h), and with
// Overlap::kWeight or kChain weights are on their way before the previous kernel of the stream has ended.
#pragma once
#include <cuda_runtime.h>

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>
#include <cute/arch/cluster_sm90.hpp>
#include <cute/arch/copy_sm90_desc.hpp>

#include <algorithm>
#include <string>

#include "cuda/by_dtype.h"
#include "cuda/elements.cuh"
#include "cuda/launch.h"
#include "cuda/operands.h"
#include "cuda/ring_consumer.cuh"
#include "cuda/ring_epilogue.cuh"
#include "cuda/ring_producer.cuh"
#include "cuda/ring_scales.cuh"
#include "cuda/ring_walk.cuh"
#include "cuda/tensor_map.h"
#include "cuda/tile.h"

namespace samebits::cuda {

/// The schedule words of the tables: how many warpgroups multiply, and whether they share each tile or take turns.
enum RingSchedule { Ring1, Ring2, Ring3, RingTurns };
constexpr int warpgroups(RingSchedule s) { return s == Ring1 ? 1 : s == Ring3 ? 3 : 2; }
/// 64-row MMA blocks of each warpgroup in a tile of `tile_m` rows.
constexpr int blocks_each(RingSchedule s, int tile_m) { return tile_m / 64 / (s == RingTurns ? 1 : warpgroups(s)); }
constexpr int token_bytes(Order order) { return spec(order).operands == Operands::kHalf ? 2 : 1; }

template <class Row, class A, class B>
struct Ring;

/// What is fixed when a row is compiled, but for the element types. kBlocks: 64-row MMA blocks of each warpgroup.
/// kChunks: chunks of 128 bytes of K, as tokens have them, in a stage.
template <Order kTheOrder, RingSchedule kTheSchedule, int kTheBlocks, int kTheCols, int kTheChunks, int kTheClusterX,
          int kTheClusterY, OutKind kTheOut, bool kTheWeightOnly>
struct RingRow {
  static constexpr bool kWeightOnly = kTheWeightOnly;
  static constexpr Order kOrder = kTheOrder;
  static constexpr RingSchedule kSchedule = kTheSchedule;
  static constexpr int kBlocks = kTheBlocks, kCols = kTheCols, kChunks = kTheChunks;
  static constexpr int kClusterX = kTheClusterX, kClusterY = kTheClusterY;
  static constexpr OutKind kOut = kTheOut;
  template <Dtype kA, Dtype kB>
  using Kernel = Ring<RingRow, Element<kA>, Element<kB>>;
};

/// A row's kernel for tokens of element type A and weights of B: the same, or float_e4m3_t beside 16 bits (weight-only:
/// widened in registers, ring_widen.cuh).
template <class Row, class A, class B>
struct Ring : Row {
  using Tokens = A;
  using Row::kBlocks, Row::kChunks, Row::kClusterX, Row::kClusterY, Row::kCols, Row::kOrder, Row::kSchedule;
  static constexpr int kCluster = kClusterX * kClusterY;
  static constexpr int kWarpgroups = warpgroups(kSchedule);
  static constexpr bool kTurns = kSchedule == RingTurns;     // one's epilogue runs under the other's multiplications
  static constexpr int kSharing = kTurns ? 1 : kWarpgroups;  // warpgroups that read one stage
  static constexpr bool kPromoted = spec(kOrder).promote_every != 0;
  static_assert(!kPromoted || spec(kOrder).promote_every == kChunkBytes, "one chunk is one promotion interval");
  static constexpr bool kBlockScaled = spec(kOrder).scale_block != 0;
  static_assert(!kBlockScaled || (kPromoted && spec(kOrder).scale_block == kScaleBlock), "one chain has one scale");
  static_assert(kCluster == 1 || kChunks == 1, "the parts of a shared tile interleave chunk by chunk");
  static constexpr int kRatio = sizeof(A) / sizeof(B);
  static constexpr bool kWidens = kRatio > 1;
  static_assert(!kWidens || (kChunks == 2 * kRatio && !kTurns),
                "a stage is given back in the second chunk of the next");
  static constexpr int kWeightChunks = kChunks / kRatio;
  static constexpr int kAcc = kCols / 2;  // FP32 accumulators of a thread in one 64-row block
  // Warpgroups trade registers as wholes; one consumer alone needs no more than its share.
  static constexpr bool kTrades = kWarpgroups > 1;
  static constexpr int kThreads = kWarpgroups * 128 + (kTrades ? 128 : kBlockScaled ? 96 : 64);
  // The warp that copies scales needs more than those that load.
  static constexpr int kProducerRegisters = kWarpgroups != 2 ? 32
                                            : kBlockScaled   ? 40
                                                             : 24,
                       kConsumerRegisters = kWarpgroups != 2 ? 160
                                            : kBlockScaled   ? 232
                                                             : 240;
  static constexpr bool kLeads = kSchedule == Ring2 && kBlocks * kCols >= 128;
  static constexpr int64_t kStreamBytes = 24 << 20;  // an output larger than half of L2 should not drive operands out
  using Epilogue = RingEpilogue<kCols, Row::kOut, kBlockScaled>;
  using Walk = RingWalk<kSharing * kBlocks, kCols, kClusterX, kClusterY>;
  using Scales = RingScales<Walk, kSharing * kBlocks, kCols, kChunks>;
  static constexpr int kStagingBytes = kWarpgroups * Epilogue::kStagingBytes;
  static constexpr RingShape kShape{
      kSharing * kBlocks, kCols,    kChunks, kClusterX, kStagingBytes, kWarpgroups > 1 || kCols > 64, kRatio,
      kBlockScaled,       kClusterY};
  static constexpr bool kDouble = kPromoted && kChunks == 1 && kBlocks * kAcc <= 72;  // registers for two partial sums
  /// A finished tile is only rounded at once. Its stores run under the next one's multiplications, if the registers
  /// last: for the outputs (in a promoted Order they lie where the sums were) and for some 44 values more.
  static constexpr bool kDefers = !kTurns && !kWidens && !kDouble && kCols > 64 && (Row::kOut == OutKind::kHalf) &&
                                  (kBlocks * (kAcc + (kPromoted ? kAcc : Epilogue::kHeld)) + 44 <= kConsumerRegisters);
  static_assert(!(kDefers && kPromoted) || kChunks == 1, "the outputs leave the totals under the first chain");
  /// Two stages of whole blocks: what the row cannot do without.
  static constexpr int64_t kShared = 1024 + kStaticBytes + kStagingBytes +
                                     2 * kChunks * (64 * kShape.blocks / kRatio + kCols) * kChunkBytes +
                                     (kBlockScaled ? 2 * Scales::kStageFloats * 4 : 0);

  static __device__ void run(const RingParams& p) {
    extern __shared__ uint8_t dynamic[];
    __shared__ alignas(8) uint64_t barriers[2 * kMaxStages];
    uint8_t* const ring = dynamic + (1024 - cute::cast_smem_ptr_to_uint(dynamic) % 1024) % 1024;
    uint8_t* const staging = ring + p.g.shared_memory - 1024 - kStagingBytes;
    float* const scales = reinterpret_cast<float*>(staging) - p.g.stages * Scales::kStageFloats;
    auto* const full = reinterpret_cast<RingFull*>(barriers);
    auto* const empty = reinterpret_cast<RingEmpty*>(barriers + kMaxStages);
    if (threadIdx.x < kMaxStages) {
      if (threadIdx.x < p.g.stages) {
        full[threadIdx.x].init(kBlockScaled ? 2 + Scales::kWarp : 2);
        empty[threadIdx.x].init(kSharing * 4 * Walk::kSharers);
      }
      cutlass::arch::fence_barrier_init();
    } else if (threadIdx.x == kWarpgroups * 128) {
      cute::prefetch_tma_descriptor(&p.x);
      cute::prefetch_tma_descriptor(&p.y);
    }
    if constexpr (kCluster > 1) {
      cute::cluster_arrive_relaxed();
      cute::cluster_wait();
    } else {
      __syncthreads();
    }
    // Note: a branch that the compiler knows to be the same for a warp. By threadIdx, all that follows counts as
    // divergent, and every address of a multiplication is moved to a uniform register of its own.
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0) - kWarpgroups * 4;
    if (warp >= 0) {
      if constexpr (kTrades) cutlass::arch::warpgroup_reg_dealloc<kProducerRegisters>();
      if (warp == 0 && cute::elect_one_sync()) RingProducer<Ring>::weights(p, ring, full, empty);
      if (warp == 1 && cute::elect_one_sync()) RingProducer<Ring>::tokens(p, ring, full, empty);
      if constexpr (kBlockScaled)
        if (warp == 2) Scales::produce(p, scales, full, empty);
    } else {
      if constexpr (kTrades) cutlass::arch::warpgroup_reg_alloc<kConsumerRegisters>();
      RingConsumer<Ring>::consume(p, ring, staging, scales, full, empty);
    }
    if constexpr (kCluster > 1) {  // a block must not end while another may write into it
      __syncwarp();
      cute::cluster_arrive();
      cute::cluster_wait();
    }
  }

  static void launch(const GemmProblem& problem, const Launch& launch);
};

template <class R>
__global__ void __launch_bounds__(R::kThreads, 1) ring_kernel(const __grid_constant__ RingParams p) {
  R::run(p);
}

template <class Row, class A, class B>
void Ring<Row, A, B>::launch(const GemmProblem& q, const Launch& launch) {
  RingParams p{};
  const int64_t k_bytes = q.k() * static_cast<int64_t>(sizeof(A));
  allow_all_shared_memory(&ring_kernel<Ring>, kStaticBytes, *launch.device);
  const int slots = clusters_at_once<kCluster>(&ring_kernel<Ring>, kThreads, kStaticBytes, *launch.device);
  p.g = ring_geometry(kShape, q.m(), q.n(), k_bytes, slots, launch.device->shared_memory);
  p.x = tensor_map("b", q.b, kChunkBytes, kWeightChunks, p.g.box_rows);
  p.y = tensor_map("a", q.a, kChunkBytes, kChunks, p.g.box_cols);
  p.whole_x = whole_chunks(q.b, kChunkBytes);
  p.whole_y = whole_chunks(q.a, kChunkBytes);
  p.scale_x = q.scale_b.data;
  p.scale_y = q.scale_a.data;
  p.bias = q.bias.data;
  p.out = q.out.data;
  p.out_stride = q.out.row_stride;
  p.m = static_cast<int>(q.m());
  p.n = static_cast<int>(q.n());
  p.steps = static_cast<int>(ceil_div(k_bytes, kChunks * kChunkBytes));
  p.scales = {q.scale_b.row_stride, q.scale_b.col_stride, q.scale_a.row_stride, q.scale_a.col_stride,
              static_cast<int>(ceil_div(q.k(), kScaleBlock))};
  p.per_channel = !q.scale_b.is_per_tensor();
  p.per_token = !q.scale_a.is_per_tensor();
  p.fp16 = q.out.dtype == Dtype::kF16;
  p.stream_out = q.m() * q.n() * 2 > kStreamBytes;
  p.early_weight = launch.overlap >= Overlap::kWeight;
  p.chain = launch.overlap == Overlap::kChain;
  // A warpgroup counts tiles and tokens past the last one in 32 bits.
  const int64_t tiles = int64_t{p.g.tiles_x} * p.g.tiles_y;
  if (tiles > INT32_MAX - 2 * p.g.clusters || std::max(q.m(), q.n()) > INT32_MAX - 1024)
    throw Error(ErrorCode::kUnsupported, "m=" + std::to_string(q.m()) + " n=" + std::to_string(q.n()) + ": " +
                                             std::to_string(tiles) + " output tiles are more than this row counts");
  const Grid grid{static_cast<unsigned>(p.g.clusters * kCluster), kThreads, kCluster, p.g.shared_memory};
  launch_kernel("ring_kernel", &ring_kernel<Ring>, grid, launch, p);
}

}  // namespace samebits::cuda

// One kernel and its symbol `kernel_<name>`, which tables.cpp declares from the same row.
#define SAMEBITS_DEFINE_TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  namespace samebits::cuda::sm90 {                                                                               \
  static_assert(OperandWord::operands != OperandWord::Straight, "a Ring row swaps operands");                    \
  static_assert(tile_m % (64 * (schedule == RingTurns ? 1 : warpgroups(schedule))) == 0 &&                       \
                    tile_k * token_bytes(Order::k##order) % kChunkBytes == 0,                                    \
                "whole MMA blocks for each warpgroup, whole chunks of K");                                       \
  extern const TileKernel kernel_##name;                                                                         \
  const TileKernel kernel_##name =                                                                               \
      kernels_by_dtype<RingRow<Order::k##order, schedule, blocks_each(schedule, tile_m), tile_n,                 \
                               tile_k * token_bytes(Order::k##order) / kChunkBytes, cluster_m, cluster_n,        \
                               OutKind::k##out, OperandWord::operands == OperandWord::WeightOnly>>();            \
  }
