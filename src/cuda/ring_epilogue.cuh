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

template <int kCols, OutKind kOut>
struct RingEpilogue {
  // Token columns that are staged at once.
  static constexpr int kPass = kCols <= 64 ? kCols : kCols % 64 == 0 ? 64 : 48;
  static_assert(kCols % kPass == 0 && kPass % 8 == 0);
  static constexpr int kRowBytes = 128;  // 64 channels of 16 bits
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
      t.scale[i] = token >= p.m ? 0.0f : p.scale_y ? p.scale_y[p.per_token ? token : 0] : 1.0f;
    }
    return t;
  }
  /// Puts the token scales where every thread of the warpgroup finds them; store() waits for that.
  static __device__ void share(const Tokens& t, uint8_t* staging) {
#pragma unroll
    for (int i = 0; i < kScales; ++i)
      if (const int column = threadIdx.x % 128 + 128 * i; column < kCols) scales_of(staging)[column] = t.scale[i];
  }
  static __device__ float* scales_of(uint8_t* staging) { return reinterpret_cast<float*>(staging + kPass * kRowBytes); }

  struct Channels {
    float scale[2], bias[2];
  };
  static __device__ Channels load_channels(const RingParams& p, int x) {
    Channels c{};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = x + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
      if (channel >= p.n) continue;
      c.scale[i] = p.scale_x ? p.scale_x[p.per_channel ? channel : 0] : 1.0f;
      if (p.bias) c.bias[i] = widen(p, channel);
    }
    return c;
  }

  static __device__ float widen(const RingParams& p, int channel) {
    if constexpr (kOut == OutKind::kFloat) return static_cast<const float*>(p.bias)[channel];
    const auto bits = static_cast<const uint16_t*>(p.bias)[channel];
    return p.fp16 ? __half2float(__ushort_as_half(bits)) : __bfloat162float(__ushort_as_bfloat16(bits));
  }
  static __device__ uint32_t pack(const RingParams& p, float low, float high) {
    if (p.fp16) {
      const __half2 h = __floats2half2_rn(low, high);
      return reinterpret_cast<const uint32_t&>(h);
    }
    const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(h);
  }

  /// t = scale_a * acc; out = cast(scale_b * t) or cast(fma(scale_b, t, bias)) for channels x ... x + 63, tokens from
  /// y.
  static __device__ void store(const RingParams& p, const float (&d)[kCols / 2], const Channels& channels, int x, int y,
                               uint8_t* staging) {
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = threadIdx.x % 32, warpgroup = threadIdx.x / 128;
    const float* scales = scales_of(staging);
    const auto finish = [&](int i, float scale_a, float value) {
      const float t = __fmul_rn(scale_a, value);
      return p.bias ? __fmaf_rn(channels.scale[i], t, channels.bias[i]) : __fmul_rn(channels.scale[i], t);
    };
    if constexpr (kOut == OutKind::kFloat) {  // eight lanes write the 32 bytes of a sector
      cutlass::arch::NamedBarrier::sync(128, warpgroup + 1);
      const int channel = warp * 16 + lane / 4;
#pragma unroll
      for (int i = 0; i < kCols / 2; ++i) {
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2, half = i / 2 % 2, row = channel + 8 * half;
        if (y + column < p.m && row < p.g.rows && x + row < p.n)
          static_cast<float*>(p.out)[(y + column) * p.out_stride + x + row] = finish(half, scales[column], d[i]);
      }
      cutlass::arch::NamedBarrier::sync(128, warpgroup + 1);  // before the next tile's scales
      return;
    }
    const int chunk = warp * 2 + lane / 8 % 2;  // which 8 channels this lane's address is for
#pragma unroll
    for (int pass = 0; pass < kCols / kPass; ++pass) {
      if (y + pass * kPass >= p.m) break;
      cutlass::arch::NamedBarrier::sync(128, warpgroup + 1);  // scales are there, the staging is free
#pragma unroll
      for (int j = 0; j < kPass / 8; j += 2) {
        uint32_t r[4] = {};
#pragma unroll
        for (int h = 0; h < 2 && j + h < kPass / 8; ++h) {
          const int column = pass * kPass + (j + h) * 8;
          const float2 scale_a = *reinterpret_cast<const float2*>(scales + column + lane % 4 * 2);
          const float* v = d + column / 2;
          r[2 * h] = pack(p, finish(0, scale_a.x, v[0]), finish(0, scale_a.y, v[1]));
          r[2 * h + 1] = pack(p, finish(1, scale_a.x, v[2]), finish(1, scale_a.y, v[3]));
        }
        const int token = j * 8 + lane / 16 * 8 + lane % 8;
        auto* to = reinterpret_cast<cute::uint128_t*>(staging + (token % kPass) * kRowBytes + (chunk ^ token % 8) * 16);
        if constexpr (kPass % 16 == 0)
          cute::SM90_U16x8_STSM_T::copy(r[0], r[1], r[2], r[3], *to);
        else
          cute::SM90_U16x4_STSM_T::copy(r[0], r[1], *to);  // addresses of lanes 0 to 15
      }
      cutlass::arch::NamedBarrier::sync(128, warpgroup + 1);
      for (int i = thread; i < kPass * 8; i += 128) {
        const int token = i / 8, c = i % 8, row = y + pass * kPass + token, col = x + c * 8;
        if (c * 8 >= p.g.rows || row >= p.m || col >= p.n) continue;
        const uint4 v = *reinterpret_cast<const uint4*>(staging + token * kRowBytes + (c ^ token % 8) * 16);
        auto* to = reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.out) + row * p.out_stride + col);
        if (p.stream_out)
          __stcs(to, v);
        else
          *to = v;
      }
    }
  }
};

}  // namespace samebits::cuda
