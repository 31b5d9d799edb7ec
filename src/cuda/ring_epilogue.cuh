// The contract's epilogue for a Ring kernel: from the accumulators of one warpgroup's 64 channels to the output.
// Channels are the accumulator's rows, so 8x8 blocks are transposed on their way through shared memory
// (stmatrix.trans). Used by ring.cuh.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cutlass/arch/barrier.h>
#include <cute/arch/copy_sm90.hpp>

#include "cuda/ring_walk.cuh"
#include "cuda/tile.h"

namespace samebits::cuda {

// kScaledInside: the Order has block scales, and nothing is left to multiply by.
template <int kCols, OutKind kOut, bool kScaledInside>
struct RingEpilogue {
  // Token columns that are staged at once.
  static constexpr int kPass = [] {
    for (const int cols : {64, 48, 80, 72, 88})
      if (kCols > 64 && kCols % cols == 0) return cols;
    return kCols;
  }();
  static_assert(kCols % kPass == 0 && kPass % 8 == 0);
  static constexpr int kPasses = kCols / kPass;
  static constexpr int kHeld = kCols / 4;  ///< registers that hold a thread's outputs in one 64-row block
  static constexpr int kRowBytes = 128;    // 64 channels of 16 bits
  static constexpr int kStagingBytes =
      kPass * kRowBytes + kCols * 4;                   // of one warpgroup: the outputs, the token scales
  static constexpr int kScales = (kCols + 127) / 128;  // token scales that one thread fetches

  // Both loaded before the multiplications, so that their latency is hidden: this thread's token scales, and what it
  // needs of its two channels.
  struct Tokens {
    float scale[kScales];
  };
  static __device__ Tokens load_tokens(const RingParams& p, int first) {
    Tokens t;
#pragma unroll
    for (int i = 0; i < kScales; ++i) {
      const int token = first + threadIdx.x % 128 + 128 * i;
      t.scale[i] = kScaledInside || token >= p.m ? 0.0f : p.scale_y ? p.scale_y[p.per_token ? token : 0] : 1.0f;
    }
    return t;
  }
  /// Puts the token scales where every thread of the warpgroup finds them; store() and hold() wait for that.
  static __device__ void share(const Tokens& t, uint8_t* staging) {
#pragma unroll
    for (int i = 0; i < kScales; ++i)
      if (const int column = threadIdx.x % 128 + 128 * i; !kScaledInside && column < kCols)
        scales_of(staging)[column] = t.scale[i];
  }
  static __device__ float* scales_of(uint8_t* staging) { return reinterpret_cast<float*>(staging + kPass * kRowBytes); }

  struct Channels {
    float scale[2], bias[2];
  };
  static __device__ Channels load_channels(const RingParams& p, int x) {
    Channels c{{0.0f, 0.0f}, {-0.0f, -0.0f}};  // adding -0 changes nothing, not even a zero's sign
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = x + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
      if (channel >= p.n) continue;
      if constexpr (!kScaledInside) c.scale[i] = p.scale_x ? p.scale_x[p.per_channel ? channel : 0] : 1.0f;
      if (p.bias) c.bias[i] = widen(p, channel);
    }
    return c;
  }

  static __device__ float widen(const RingParams& p, int channel) {
    if constexpr (kOut == OutKind::kFloat) return static_cast<const float*>(p.bias)[channel];
    const auto bits = static_cast<const uint16_t*>(p.bias)[channel];
    return p.fp16 ? __half2float(__ushort_as_half(bits)) : __bfloat162float(__ushort_as_bfloat16(bits));
  }

  /// t = scale_a * acc; out = cast(scale_b * t) or cast(fma(scale_b, t, bias)), scaled inside cast(acc) or
  /// cast(acc + bias), for channels x ... x + 63, tokens from y.
  static __device__ void store(const RingParams& p, const float (&d)[kCols / 2], const Channels& channels, int x, int y,
                               uint8_t* staging) {
    const float* scales = scales_of(staging);
    if constexpr (kOut == OutKind::kFloat) {  // eight lanes write the 32 bytes of a sector
      const int lane = threadIdx.x % 32, channel = threadIdx.x % 128 / 32 * 16 + lane / 4;
      sync();
#pragma unroll
      for (int i = 0; i < kCols / 2; ++i) {
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2, half = i / 2 % 2, row = channel + 8 * half;
        if (y + column < p.m && row < p.g.rows && x + row < p.n)
          static_cast<float*>(p.out)[(y + column) * p.out_stride + x + row] =
              finish(channels, half, scales[column], d[i]);
      }
      sync();  // before the next tile's scales
    } else {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (y + pass * kPass >= p.m) break;
        sync();  // scales are there, the staging is free
        uint32_t r[kPass / 8 + 1][2] = {};
        round(p, d, channels, scales, pass, r);
        write(p, r, x, y + pass * kPass, staging);
      }
    }
  }

  /// What store() computes, into registers: two outputs in the bits of each of the first kHeld. `held` may be `d`.
  template <int kRegisters>
  static __device__ void hold(const RingParams& p, const float (&d)[kCols / 2], const Channels& channels,
                              uint8_t* staging, float (&held)[kRegisters]) {
    static_assert(kRegisters >= kHeld);
    sync();  // scales are there
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      uint32_t r[kPass / 8 + 1][2] = {};
      round(p, d, channels, scales_of(staging), pass, r);
#pragma unroll
      for (int j = 0; j < kPass / 4; ++j) held[pass * (kPass / 4) + j] = __uint_as_float(r[j / 2][j % 2]);
    }
  }
  /// Stores one pass of what hold() held. Note: every thread passes a barrier between two tiles' scales in pass 0.
  template <int kRegisters>
  static __device__ void store_held(const RingParams& p, const float (&held)[kRegisters], int pass, int x, int y,
                                    uint8_t* staging) {
    sync();  // the staging is free
    if (y + pass * kPass >= p.m) return;
    uint32_t r[kPass / 8 + 1][2] = {};
#pragma unroll
    for (int j = 0; j < kPass / 4; ++j) r[j / 2][j % 2] = __float_as_uint(held[pass * (kPass / 4) + j]);
    write(p, r, x, y + pass * kPass, staging);
  }

 private:
  static __device__ void sync() { cutlass::arch::NamedBarrier::sync(128, threadIdx.x / 128 + 1); }

  static __device__ float finish(const Channels& channels, int i, float scale_a, float value) {
    if constexpr (kScaledInside) return __fadd_rn(value, channels.bias[i]);
    return __fmaf_rn(channels.scale[i], __fmul_rn(scale_a, value), channels.bias[i]);
  }

  /// The outputs of one pass: r[j][i] are columns 8 j + 2 * (lane % 4) and the next, of channel lane / 4 + 8 i.
  /// Note: all loads, then all arithmetic, then all stores: taken 16 columns at a time, each waited for the last.
  static __device__ void round(const RingParams& p, const float (&d)[kCols / 2], const Channels& channels,
                               const float* scales, int pass, uint32_t (&r)[kPass / 8 + 1][2]) {
    float2 scale_a[kPass / 8] = {};
#pragma unroll
    for (int j = 0; j < kPass / 8; ++j)
      if constexpr (!kScaledInside)
        scale_a[j] = *reinterpret_cast<const float2*>(scales + pass * kPass + j * 8 + threadIdx.x % 4 * 2);
    float2 v[kPass / 8][2];  // both tokens
#pragma unroll
    for (int j = 0; j < kPass / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* const acc = d + (pass * kPass + j * 8) / 2 + 2 * i;
        v[j][i] = {finish(channels, i, scale_a[j].x, acc[0]), finish(channels, i, scale_a[j].y, acc[1])};
      }
    const auto pack = [&](auto convert) {
#pragma unroll
      for (int j = 0; j < kPass / 8; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const auto pair = convert(v[j][i]);
          static_assert(sizeof pair == sizeof r[j][i]);
          r[j][i] = reinterpret_cast<const uint32_t&>(pair);
        }
    };
    if (p.fp16)
      pack([](float2 f) { return __float22half2_rn(f); });
    else
      pack([](float2 f) { return __float22bfloat162_rn(f); });
  }

  /// One pass to memory, through shared memory: channels x ... x + 63, tokens from `first`.
  static __device__ void write(const RingParams& p, const uint32_t (&r)[kPass / 8 + 1][2], int x, int first,
                               uint8_t* staging) {
    const int thread = threadIdx.x % 128, lane = threadIdx.x % 32;
    // Which 8 channels this lane's address is for: of the 8x8 blocks that stmatrix writes, then of the copy to memory.
    const int chunk = thread / 32 * 2 + lane / 8 % 2, c = thread % 8;
    const bool copies = c * 8 < p.g.rows && x + c * 8 < p.n;
#pragma unroll
    for (int j = 0; j < kPass / 8; j += 2) {
      const int token = j * 8 + lane / 16 * 8 + lane % 8;
      auto* to = reinterpret_cast<cute::uint128_t*>(staging + (token % kPass) * kRowBytes + (chunk ^ token % 8) * 16);
      if (j + 1 < kPass / 8)
        cute::SM90_U16x8_STSM_T::copy(r[j][0], r[j][1], r[j + 1][0], r[j + 1][1], *to);
      else
        cute::SM90_U16x4_STSM_T::copy(r[j][0], r[j][1], *to);  // addresses of lanes 0 to 15
    }
    sync();
    constexpr int kCopies = (kPass + 15) / 16;
    uint4 row[kCopies];
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int token = (thread / 8 + 16 * i) % kPass;
      row[i] = *reinterpret_cast<const uint4*>(staging + token * kRowBytes + (c ^ token % 8) * 16);
    }
    auto* to = static_cast<uint16_t*>(p.out) + (first + thread / 8) * p.out_stride + x + c * 8;
#pragma unroll
    for (int i = 0; i < kCopies; ++i, to += 16 * p.out_stride) {
      const int token = thread / 8 + 16 * i;
      if (!copies || (kPass % 16 && token >= kPass) || first + token >= p.m) continue;
      if (p.stream_out)
        __stcs(reinterpret_cast<uint4*>(to), row[i]);
      else
        *reinterpret_cast<uint4*>(to) = row[i];
    }
  }
};

}  // namespace samebits::cuda
