// The warpgroups of a Ring kernel: they multiply what the producers load, add chains where the Order says so, and hand
// the sums to the epilogue. Used by ring.cuh.
#pragma once
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/grid_dependency_control.h>
#include <cute/arch/mma_sm90.hpp>

#include <type_traits>
#include <utility>

#include "cuda/ring_epilogue.cuh"
#include "cuda/ring_mma.cuh"
#include "cuda/ring_walk.cuh"
#include "cuda/ring_widen.cuh"

namespace samebits::cuda {

/// R: the Ring whose stages it reads.
template <class R>
struct RingConsumer {
  using A = typename R::Tokens;
  using Epilogue = typename R::Epilogue;
  using Walk = typename R::Walk;
  using Place = typename Walk::Place;
  using Scales = typename R::Scales;
  static constexpr RingShape kShape = R::kShape;
  static constexpr int kBlocks = R::kBlocks, kCols = R::kCols, kChunks = R::kChunks, kAcc = R::kAcc,
                       kWarpgroups = R::kWarpgroups, kRatio = R::kRatio, kWeightChunks = R::kWeightChunks;
  static constexpr bool kTurns = R::kTurns, kLeads = R::kLeads, kDouble = R::kDouble, kDefers = R::kDefers,
                        kPromoted = R::kPromoted, kBlockScaled = R::kBlockScaled, kWidens = R::kWidens;
  static constexpr int kStepsWithStores = kPromoted ? 1 : Epilogue::kPasses;  // of a tile, under its first steps
  static constexpr int kTogether = 4;  // steps of widened weights that are multiplied together

  // The canonical K-major layout with 128-byte swizzle: atoms of 8 rows, 1024 bytes apart. `at`: a shared-memory
  // address over 16, plus kLow. Note: in 32 bits and free of threadIdx, so that the compiler computes it in uniform
  // registers.
  static constexpr uint32_t kLow = 1u << 16;
  static __device__ uint64_t descriptor(uint32_t at) {
    constexpr uint64_t kHigh = 64ull << 32 | 1ull << 62;
    return kHigh | at;
  }
  static __device__ void fence(float (&d)[kBlocks][kAcc]) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
#pragma unroll
      for (int i = 0; i < kAcc; ++i) cute::warpgroup_fence_operand(d[b][i]);
  }

  template <bool kFirst, class X, class Y>
  static __device__ auto& either(X& x, Y& y) {
    if constexpr (kFirst)
      return x;
    else
      return y;
  }

  static __device__ void consume(const RingParams& p, uint8_t* ring, uint8_t* staging, const float* scales,
                                 RingFull* full, RingEmpty* empty) {
    const int warpgroup = kWarpgroups == 1 ? 0 : __shfl_sync(~0u, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
    const uint32_t ring16 = cute::cast_smem_ptr_to_uint(ring) / 16 + kLow, stage16 = (p.g.x_bytes + p.g.y_bytes) / 16,
                   x16 = p.g.x_bytes / 16, y_chunk16 = p.g.y_bytes / kChunks / 16;
    cutlass::arch::wait_on_dependent_grids();
    // Note: CUTLASS's barriers do not say that they order memory, so the compiler may move plain loads across them.
    const auto acquire = [&](int stage, uint32_t phase) {
      full[stage].wait(phase);
      asm volatile("" ::: "memory");
    };
    const int sharer = Walk::sharer(lane);
    const auto release = [&](int stage) {
      asm volatile("" ::: "memory");
      if (lane < Walk::kSharers) empty[stage].arrive(sharer);
    };
    // The first warpgroup starts some stages ahead and stays there: one's epilogue runs under the other's
    // multiplications.
    constexpr int kLeadBarrier = kWarpgroups + 1, kTurnBarrier = kWarpgroups + 1;
    const int lead = min(p.g.stages - 1, p.steps) - 1;
    if (kLeads && warpgroup == 1 && lead >= 0) cutlass::arch::NamedBarrier::sync(256, kLeadBarrier);
    bool led = !kLeads || warpgroup != 0 || lead < 0;
    const int share = kTurns ? 0 : warpgroup;  // which blocks of a tile are this warpgroup's
    float acc[kDouble ? 2 : 1][kBlocks][kAcc], total[kPromoted ? kBlocks : 1][kPromoted ? kAcc : 1];
    // The rounded outputs of a finished tile, until they are stored: where the sums of a promoted Order were.
    float packed[kDefers && !kPromoted ? kBlocks : 1][kDefers && !kPromoted ? Epilogue::kHeld : 1];
    auto& held = either<kPromoted>(total, packed);
    RingPosition at{0, 0};
    // Multiplies kMany chunks of a stage from chunk c on.
    const auto issue = [&]<int kMany>(std::integral_constant<int, kMany>, float(&d)[kBlocks][kAcc], int stage, int c,
                                      bool first) {
      const uint32_t block = p.g.rows * (kChunkBytes / 16), at_stage = ring16 + stage * stage16;
      fence(d);
      cute::warpgroup_arrive();
#pragma unroll
      for (int i = 0; i < kMany; ++i) {
        const uint32_t x = at_stage + ((c + i) * kShape.blocks + share * kBlocks) * block,
                       y = at_stage + x16 + (c + i) * y_chunk16;
#pragma unroll
        for (int kk = 0; kk < 4; ++kk)
#pragma unroll
          for (int b = 0; b < kBlocks; ++b)
            RingMma<A, kCols>::fma(d[b], descriptor(x + b * block + 2 * kk), descriptor(y + 2 * kk),
                                   i > 0 || kk > 0 || !first);
      }
      cute::warpgroup_commit_batch();
      fence(d);
    };
    Widened<A> widened[kWeightChunks][kBlocks];
    // Adds a finished chain, that of chunk c of a step, to the totals. Gives its stage back if `last`.
    const auto finish = [&](float(&d)[kBlocks][kAcc], int stage, int step, int c, bool last) {
      if (!kBlockScaled && last) release(stage);
      fence(d);
      if constexpr (kBlockScaled) {
        const bool exists = step * kChunks + c < p.scales.blocks;
        Scales::add(total, d, scales + stage * Scales::kStageFloats, c, share * kBlocks, exists);
        __syncwarp();  // one lane speaks for the scales that all have read
        if (last) release(stage);
      } else {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
#pragma unroll
          for (int i = 0; i < kAcc; ++i) total[b][i] = __fadd_rn(total[b][i], d[b][i]);
      }
    };
    // Where the finished tile lies that waits for its stores, and how many passes of them were made.
    [[maybe_unused]] int held_x = 0, held_y = 0, stored = Epilogue::kPasses;
    uint8_t* const mine = staging + warpgroup * Epilogue::kStagingBytes;
    const auto store_pass = [&](int pass) {
      if (stored > pass) return;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) Epilogue::store_held(p, held[b], pass, (held_x + b) * p.g.rows, held_y, mine);
      stored = pass + 1;
    };
    const auto store_rest = [&] {
#pragma unroll
      for (int pass = 0; pass < Epilogue::kPasses; ++pass) store_pass(pass);
    };
    const auto zero_totals = [&] {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
#pragma unroll
        for (int i = 0; i < kAcc; ++i) total[b][i] = 0.0f;
    };
    Place tile = Walk::begin(p);
    const int first_tile = tile.tile;
    if (kTurns && warpgroup == 1) {
      at.skip(p.steps, p.g.stages);
      Walk::next(p, tile, 1);
    }
    for (; !Walk::ended(p, tile); Walk::next(p, tile, kTurns ? 2 : 1)) {
      const auto tokens = Epilogue::load_tokens(p, tile.y);
      typename Epilogue::Channels channels[kBlocks];
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
        channels[b] = Epilogue::load_channels(p, (tile.x + share * kBlocks + b) * p.g.rows);
      // A barrier's phase is one bit: a warpgroup that looks at a stage before the other has read it would take its
      // data.
      if (kTurns && tile.tile != first_tile) cutlass::arch::NamedBarrier::sync(256, kTurnBarrier + warpgroup);
      int previous = -1;
      const auto step_done = [&](int step) {
        if (kLeads && !led && step == lead) {
          cutlass::arch::NamedBarrier::arrive(256, kLeadBarrier);
          led = true;
        }
        previous = at.stage;
        at.advance(p.g.stages);
        if (kTurns && step == p.steps - 1) cutlass::arch::NamedBarrier::arrive(256, kTurnBarrier + 1 - warpgroup);
      };
      if constexpr (kPromoted && !kDefers) zero_totals();
      if constexpr (kDouble) {  // a partial sum is added while the next one is multiplied
        const auto start = [&](float(&d)[kBlocks][kAcc], int step) {
          acquire(at.stage, at.phase);
          issue(std::integral_constant<int, 1>{}, d, at.stage, 0, true);
          step_done(step);
        };
        int step = 0;
        for (; step + 1 < p.steps; step += 2) {
          const int even = at.stage;
          start(acc[0], step);
          start(acc[1], step + 1);
          cute::warpgroup_wait<1>();
          finish(acc[0], even, step, 0, true);
          cute::warpgroup_wait<0>();
          finish(acc[1], previous, step + 1, 0, true);
        }
        if (step < p.steps) {
          start(acc[0], step);
          cute::warpgroup_wait<0>();
          finish(acc[0], previous, step, 0, true);
        }
      } else {
        // `pass`: of the last tile's outputs, stored under this step's multiplications; -1: none.
        const auto one_step = [&](int step, auto pass) {
          acquire(at.stage, at.phase);
          if constexpr (kWidens) {
            const uint32_t y = ring16 + at.stage * stage16 + x16;
            const uint8_t* const x = ring + at.stage * (p.g.x_bytes + p.g.y_bytes);
#pragma unroll
            for (int c = 0; c < kWeightChunks; ++c)
#pragma unroll
              for (int b = 0; b < kBlocks; ++b)
                widened[c][b].load(x + (c * kShape.blocks + share * kBlocks + b) * p.g.rows * kChunkBytes);
#pragma unroll
            for (int c = 0; c < kWeightChunks; ++c) {
              // Note: ptxas runs wgmma one by one if registers of several uncommitted ones are written between them, so
              // a few steps of 16 are a group of their own.
#pragma unroll
              for (int group = 0; group < Widened<A>::kSteps; group += kTogether) {
                cute::warpgroup_wait<Widened<A>::kSteps / kTogether - 1>();
                if (group == 0 && c == 1 && previous >= 0) release(previous);
#pragma unroll
                for (int kk = group; kk < group + kTogether; ++kk)
#pragma unroll
                  for (int b = 0; b < kBlocks; ++b) widened[c][b].widen(kk);
                fence(acc[0]);
                cute::warpgroup_arrive();
#pragma unroll
                for (int kk = group; kk < group + kTogether; ++kk)
#pragma unroll
                  for (int b = 0; b < kBlocks; ++b)
                    widened[c][b].template multiply<WidenedAtom<A, kCols>>(
                        acc[0][b], kk, descriptor(y + (c * kRatio + kk / 4) * y_chunk16 + kk % 4 * 2),
                        kk > 0 || c > 0 || step > 0);
                cute::warpgroup_commit_batch();
                fence(acc[0]);
              }
            }
          } else if constexpr (kPromoted) {
#pragma unroll
            for (int c = 0; c < kChunks; ++c) {
              issue(std::integral_constant<int, 1>{}, acc[0], at.stage, c, true);
              if constexpr (pass >= 0) {  // the last tile's outputs lie in the totals
                store_rest();
                zero_totals();
              }
              cute::warpgroup_wait<0>();
              finish(acc[0], at.stage, step, c, c == kChunks - 1);
            }
          } else {
            issue(std::integral_constant<int, kChunks>{}, acc[0], at.stage, 0, step == 0);
            if constexpr (pass >= 0) store_pass(pass);
            cute::warpgroup_wait<1>();  // the stage before this one is read
            fence(acc[0]);
            if (previous >= 0) release(previous);
          }
          step_done(step);
        };
        int step = 0;
        if constexpr (kDefers) {
          const auto steps_with_stores = [&]<int... kPass>(std::integer_sequence<int, kPass...>) {
            ((kPass < p.steps ? one_step(step++, std::integral_constant<int, kPass>{}) : void()), ...);
          };
          steps_with_stores(std::make_integer_sequence<int, kStepsWithStores>{});
        }
        for (; step < p.steps; ++step) one_step(step, std::integral_constant<int, -1>{});
        if constexpr (!kPromoted) {
          cute::warpgroup_wait<0>();
          fence(acc[0]);
          release(previous);
        }
      }
      if constexpr (kTurns) at.skip(p.steps, p.g.stages);
      const auto& result = either<kPromoted>(total, acc[0]);
      if constexpr (kDefers) {
        store_rest();
        Epilogue::share(tokens, mine);
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) Epilogue::hold(p, result[b], channels[b], mine, held[b]);
        held_x = tile.x + share * kBlocks, held_y = tile.y, stored = 0;
      } else {
        Epilogue::share(tokens, mine);
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
          Epilogue::store(p, result[b], channels[b], (tile.x + share * kBlocks + b) * p.g.rows, tile.y, mine);
      }
    }
    if constexpr (kDefers) store_rest();
  }
};

}  // namespace samebits::cuda
