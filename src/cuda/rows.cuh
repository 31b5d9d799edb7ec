// The kernel of all activation quantizers and of what comes before them: reads a row once, keeps it in registers, and
// writes it once. Formulas: docs/contract.md; every rounding is spelled out. Launched by rows.cu.
#pragma once
#include <type_traits>

#include "cuda/row.cuh"
#include "numerics/exp.h"

namespace samebits::cuda {

enum class Produce { kCopy, kRmsNorm, kSiluMul };
enum class Out { kCast, kPerToken, kPerGroup, kStatic };

constexpr int kMaxBlocks = 8;  // of a row: the largest portable cluster
constexpr int kMaxVectors = 4;

// Threads of a block whose threads keep so many vectors; 896 threads have 72 registers each, 1024 have 64.
constexpr int max_threads(int vectors) { return vectors == kMaxVectors ? 896 : 1024; }

template <class T>
struct RowArgs {
  const T* x;
  int64_t x_stride;
  int64_t cols;  // of the result; SiLU * mul reads twice as many
  const T* weight;
  const T* residual;  // null: no addition
  T* residual_out;
  int64_t residual_stride, residual_out_stride;
  float epsilon;
  void* out;  // T or e4m3 codes
  int64_t out_stride, out_cols;
  float* scale;                                // written per token or group, read if static
  int64_t scale_row_stride, scale_col_stride;  // of groups
  bool power_of_two;                           // scales of groups
  const float* upper_bound;                    // of absmax, or null
  int64_t first_row;
  int log_blocks;     // of the blocks that share a row
  int vectors;        // of a thread, where the row is not kept
  bool aligned;       // loads of x at least may be of 16 bytes
  bool early_weight;  // the kernel before does not write `weight`
  bool start_next;    // lets the next kernel start once this one has waited
  bool chain;         // or before that
};

// The twin of defined_silu().
__device__ inline float silu(float g) {
  const float t = fmaxf(fminf(-g, kExpHigh), kExpLow);
  const float z = __fmaf_rn(t, kLog2E, kExpRound), n = __fsub_rn(z, kExpRound);
  const float r = __fmaf_rn(n, -kLn2Low, __fmaf_rn(n, -kLn2High, t));
  // A copy: the array itself has no address on a GPU.
  constexpr float c[] = {kExpCoefficients[0], kExpCoefficients[1], kExpCoefficients[2], kExpCoefficients[3],
                         kExpCoefficients[4]};
  float p = c[0];
#pragma unroll
  for (int i = 1; i < 5; ++i) p = __fmaf_rn(p, r, c[i]);
  p = __fmaf_rn(__fmaf_rn(p, r, 1.0f), r, 1.0f);
  const uint32_t exponent = (__float_as_uint(z) << 23) - (1u << 23);
  const float e = __fmul_rn(2.0f, __uint_as_float(__float_as_uint(p) + exponent));
  return __fdiv_rn(g, __fadd_rn(1.0f, e));
}

// A row belongs to `blocks` blocks; 16 bytes of it are a vector, and vector (i * blocks + rank) * threads + thread is a
// thread's i-th, so that a warp's 32 vectors are adjacent. kVectors: how many a thread keeps; 0: none, the row is read
// again for each step, element by element where it must.
template <Produce kProduce, Out kOut, class T, int kVectors>
__global__ void __launch_bounds__(max_threads(kVectors)) rows_kernel(const RowArgs<T> a) {
  constexpr bool kKept = kVectors > 0, kNorm = kProduce == Produce::kRmsNorm, kPerToken = kOut == Out::kPerToken;
  constexpr bool kWeightKept = kNorm && kKept && kVectors < kMaxVectors;  // of four vectors the registers are full
  constexpr int kSlots = kKept ? kVectors : 1, kCount = kElements<T>;
  using Index = std::conditional_t<kKept, int, int64_t>;
  __shared__ float sums[kNorm ? kMaxVectors * kMaxBlocks * 32 : 1];
  __shared__ uint64_t arrived[2];
  __shared__ float maxima[kPerToken ? kMaxBlocks * 32 : 1];

  const int blocks = 1 << a.log_blocks, rank = blockIdx.x % blocks;
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int64_t row = a.first_row + (blockIdx.x >> a.log_blocks);
  const int count = kKept ? kVectors : a.vectors;
  const Index cols = static_cast<Index>(a.cols), out_cols = static_cast<Index>(a.out_cols);
  const auto vector = [&](int i) -> Index {
    return (static_cast<Index>(i) * blocks + rank) * static_cast<Index>(blockDim.x) + threadIdx.x;
  };
  const auto load = [&](const T* from, Index v) -> uint4 {
    const Index col = v * kCount;
    if constexpr (kKept)
      return col < cols ? *reinterpret_cast<const uint4*>(from + col) : uint4{};
    else
      return a.aligned && col + kCount <= cols ? *reinterpret_cast<const uint4*>(from + col)
                                               : load_elements(from, col, cols);
  };
  const auto store = [&](auto* to, Index v, Index end, const auto& packed) {
    constexpr int kStored = sizeof packed / sizeof *to;
    if constexpr (!kKept)
      store_elements(to, v * kStored, end, packed);
    else if (v * kStored < end)
      *reinterpret_cast<std::decay_t<decltype(packed)>*>(to + v * kStored) = packed;
  };

  if (a.chain) start_next();
  constexpr bool kTeam = kNorm || kPerToken;
  const Team team(kTeam ? blocks : 1, arrived, kNorm ? count * blocks * warps : 0, kPerToken ? blocks * warps : 0);
  if (!kWeightKept || !a.early_weight) wait_for_previous();
  uint4 weight[kSlots] = {};
  if constexpr (kWeightKept) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) weight[i] = load(a.weight, vector(i));
  }
  if (kWeightKept && a.early_weight) wait_for_previous();
  if (a.start_next && !a.chain) start_next();

  const T* x = a.x + row * a.x_stride;
  const T* residual = a.residual + row * a.residual_stride;
  T* residual_out = a.residual_out + row * a.residual_out_stride;
  const float bound = kPerToken && a.upper_bound ? *a.upper_bound : __int_as_float(0x7f800000);
  const float reciprocal = kOut == Out::kStatic ? __fdiv_rn(1.0f, *a.scale) : 0.0f;
  uint4 kept[kSlots] = {}, other[kSlots] = {};  // other: the residual, or what SiLU is multiplied by
  if constexpr (kKept) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) kept[i] = load(x, vector(i));
#pragma unroll
    for (int i = 0; i < kSlots; ++i)
      if (kProduce == Produce::kSiluMul)
        other[i] = load(x + cols, vector(i));
      else if (kNorm && a.residual)
        other[i] = load(residual, vector(i));
  }
  if (kTeam) team.wait();

  float inverse = 0.0f;
  if constexpr (kNorm) {
#pragma unroll kSlots
    for (int i = 0; i < count; ++i) {
      const Index v = vector(i);
      uint4 packed = kKept ? kept[i] : load(x, v);
      float h[kCount];
      unpack<T>(packed, h);
      if (a.residual) {
        float r[kCount];
        unpack<T>(kKept ? other[i] : load(residual, v), r);
#pragma unroll
        for (int j = 0; j < kCount; ++j) h[j] = __fadd_rn(h[j], r[j]);
        packed = pack<T>(h);
        unpack<T>(packed, h);
        store(residual_out, v, cols, packed);
        if (kKept) kept[i] = packed;
      }
#pragma unroll
      for (int j = 0; j < kCount; ++j) h[j] = __fmul_rn(h[j], h[j]);
      team.publish(0, sums + v / 32, warp_sum(pair_sum(h)));
    }
    team.receive(0);
    const int total = count * blocks * warps;
    float sum = 0.0f;  // of 32 entries: then the lane of each 32 keeps theirs
    for (int first = 0; first < total; first += 32) {
      const float part = warp_sum(first + lane < total ? sums[first + lane] : 0.0f);
      if (total <= 32 || lane == first / 32) sum = part;
    }
    if (total > 32) sum = warp_sum(sum);
    const float mean = __fdiv_rn(sum, __ll2float_rn(a.cols));
    inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, a.epsilon)));
  }

  // The result's vector i, rounded to T.
  const auto result = [&](int i) -> uint4 {
    const Index v = vector(i);
    const T* source = kNorm && a.residual ? residual_out : x;
    const uint4 packed = kKept ? kept[i] : load(source, v);
    if constexpr (kProduce == Produce::kCopy) return packed;
    float y[kCount], factor[kCount];
    unpack<T>(packed, y);
#pragma unroll
    for (int j = 0; j < kCount; ++j) y[j] = kNorm ? __fmul_rn(y[j], inverse) : silu(y[j]);
    unpack<T>(pack<T>(y), y);
    if constexpr (kNorm)
      unpack<T>(kWeightKept ? weight[i] : load(a.weight, v), factor);
    else
      unpack<T>(kKept ? other[i] : load(x + cols, v), factor);
#pragma unroll
    for (int j = 0; j < kCount; ++j) y[j] = __fmul_rn(y[j], factor[j]);
    return pack<T>(y);
  };

  if constexpr (kOut == Out::kCast) {
    T* out = static_cast<T*>(a.out) + row * a.out_stride;
#pragma unroll kSlots
    for (int i = 0; i < count; ++i) store(out, vector(i), cols, result(i));
    return;
  }

  Divisor divisor{};
  if constexpr (kPerToken) {
    float absmax = 0.0f;
#pragma unroll kSlots
    for (int i = 0; i < count; ++i) {
      const uint4 packed = result(i);
      if (kKept) kept[i] = packed;
      float y[kCount];
      unpack<T>(packed, y);
#pragma unroll
      for (int j = 0; j < kCount; ++j) absmax = fmaxf(absmax, fabsf(y[j]));  // drops NaN, as the contract says
    }
    team.publish(1, maxima + rank * warps + threadIdx.x / 32, warp_max(absmax));
    team.receive(1);
    absmax = 0.0f;
    for (int i = lane; i < blocks * warps; i += 32) absmax = fmaxf(absmax, maxima[i]);
    const float scale = scale_of(fminf(warp_max(absmax), bound));
    if (rank == 0 && threadIdx.x == 0) a.scale[row] = scale;
    divisor = divisor_of(scale, __fdiv_rn(1.0f, scale));
  }
  uint8_t* codes = static_cast<uint8_t*>(a.out) + row * a.out_stride;
#pragma unroll kSlots
  for (int i = 0; i < count; ++i) {
    float y[kCount];
    unpack<T>(kKept && kPerToken ? kept[i] : result(i), y);
    if constexpr (kOut == Out::kPerGroup) {  // a group is what half a warp has, or a warp of fp32
      constexpr int kLanes = kGroup / kCount;
      float absmax = 0.0f;
#pragma unroll
      for (int j = 0; j < kCount; ++j) absmax = fmaxf(absmax, fabsf(y[j]));  // drops NaN
#pragma unroll
      for (int step = 1; step < kLanes; step *= 2) absmax = fmaxf(absmax, __shfl_xor_sync(~0u, absmax, step));
      const float scale = group_scale(absmax, a.power_of_two);
      const int64_t group = static_cast<int64_t>(vector(i)) / kLanes;
      if (lane % kLanes == 0 && group * kGroup < a.cols)
        a.scale[row * a.scale_row_stride + group * a.scale_col_stride] = scale;
      divisor = divisor_of(scale, __fdiv_rn(1.0f, scale));
    }
    // What follows the row is padding: zero codes, though 0 * inverse may be NaN.
    const Index left = cols - vector(i) * kCount;
    const auto value = [&](int j) {
      if (!kKept && j >= left) return 0.0f;
      return kOut == Out::kStatic ? __fmul_rn(y[j], reciprocal) : quotient(y[j], divisor);
    };
    uint32_t packed[kCount / 4] = {};
    if (!kKept || left > 0) encode<kCount>(value, packed);
    if constexpr (kCount == 8)
      store(codes, vector(i), out_cols, make_uint2(packed[0], packed[1]));
    else
      store(codes, vector(i), out_cols, packed[0]);
  }
}

}  // namespace samebits::cuda
