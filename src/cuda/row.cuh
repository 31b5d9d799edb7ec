// Elements of a row in registers, 16 bytes a thread and access, and the reductions of a row over its threads: those of
// one block, or of a cluster of blocks where the rows are too few to fill the GPU. For rows.cuh and quantize.cu.
#pragma once
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cuda/ptx>
#include <type_traits>

#include "cuda/quotient.h"
#include "samebits/quantize.h"

namespace samebits::cuda {

namespace ptx = ::cuda::ptx;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__nv_fp8_e4m3 x) { return static_cast<float>(x); }
__device__ inline float to_float(__nv_fp8_e5m2 x) { return static_cast<float>(x); }
__device__ inline float canonical(float x) { return x != x ? __int_as_float(0x7fffffff) : x; }

__device__ inline float scale_of(float absmax) { return fmaxf(__fdiv_rn(absmax, kE4m3Max), kMinScale); }

__device__ inline float group_scale(float absmax, bool power_of_two) {
  const float scale = __fdiv_rn(fmaxf(absmax, kMinGroupAbsmax), kE4m3Max);
  if (!power_of_two) return scale;
  return __uint_as_float((__float_as_uint(fmaxf(scale, kMinGroupAbsmax)) + 0x7fffffu) & 0x7f800000u);
}

// Calls f(std::type_identity<T>()) with the element type of a dtype that is not FP8.
template <class F>
void with_float_type(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::kBf16: return f(std::type_identity<__nv_bfloat16>());
    case Dtype::kF16: return f(std::type_identity<__half>());
    default: return f(std::type_identity<float>());
  }
}

// Elements of 16 bytes.
template <class T>
inline constexpr int kElements = 16 / sizeof(T);

template <class T>
__device__ void unpack(const uint4& packed, float (&v)[kElements<T>]) {
  const T* elements = reinterpret_cast<const T*>(&packed);
#pragma unroll
  for (int i = 0; i < kElements<T>; ++i) v[i] = to_float(elements[i]);
}

__device__ inline void cast_pair(float* out, float x, float y) { out[0] = canonical(x), out[1] = canonical(y); }
__device__ inline void cast_pair(__half* out, float x, float y) {
  *reinterpret_cast<__half2*>(out) = __floats2half2_rn(x, y);
}
__device__ inline void cast_pair(__nv_bfloat16* out, float x, float y) {
  *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(x, y);
}

// cast() of the contract: rounds to T; a NaN becomes the canonical one.
template <class T>
__device__ uint4 pack(const float (&v)[kElements<T>]) {
  uint4 packed;
  T* elements = reinterpret_cast<T*>(&packed);
#pragma unroll
  for (int i = 0; i < kElements<T>; i += 2) cast_pair(elements + i, v[i], v[i + 1]);
  return packed;
}

// Clamps to +-448 and casts; the conversion does both. A NaN gives 0x7f.
template <int kCount, class Value>
__device__ void encode(const Value& value, uint32_t (&codes)[kCount / 4]) {
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    const auto pair = [&](int at) -> uint32_t {
      return __nv_cvt_float2_to_fp8x2(make_float2(value(at), value(at + 1)), __NV_SATFINITE, __NV_E4M3);
    };
    codes[i] = pair(4 * i) | pair(4 * i + 2) << 16;
  }
}

// The elements at `col` and after it of a row that is short or not on 16 bytes; zeros past the end.
template <class T>
__device__ uint4 load_elements(const T* row, int64_t col, int64_t cols) {
  uint4 packed{};
  T* elements = reinterpret_cast<T*>(&packed);
#pragma unroll
  for (int i = 0; i < kElements<T>; ++i)
    if (col + i < cols) elements[i] = row[col + i];
  return packed;
}

template <class T, class Packed>
__device__ void store_elements(T* row, int64_t col, int64_t cols, const Packed& packed) {
  const T* elements = reinterpret_cast<const T*>(&packed);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof packed / sizeof(T)); ++i)
    if (col + i < cols) row[col + i] = elements[i];
}

// x[0] + x[1], x[2] + x[3], ...: the order of docs/contract.md, over one thread and over one warp.
template <int kCount>
__device__ float pair_sum(float (&x)[kCount]) {
#pragma unroll
  for (int step = 1; step < kCount; step *= 2)
#pragma unroll
    for (int i = 0; i < kCount; i += 2 * step) x[i] = __fadd_rn(x[i], x[i + step]);
  return x[0];
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int lane = 1; lane < 32; lane *= 2) x = __fadd_rn(x, __shfl_xor_sync(~0u, x, lane));
  return x;
}

// max is exact whatever the order. x >= +0 and not NaN, so floats order as their bits do.
__device__ inline float warp_max(float x) { return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(x))); }

// The blocks that share a row: one, or a cluster. What a warp publishes goes to every block by st.async, which counts
// its bytes in on an mbarrier there: an exchange takes no fence, and so does not wait for stores to global memory.
class Team {
 public:
  // `arrived`: an mbarrier in shared memory for each of two exchanges, of `first` and `second` values in all.
  __device__ Team(int blocks, uint64_t (&arrived)[2], int first, int second) : blocks_(blocks), arrived_(arrived) {
#if __CUDA_ARCH__ >= 900
    if (blocks_ == 1) return;
    if (threadIdx.x == 0) {
      for (uint64_t& barrier : arrived) ptx::mbarrier_init(&barrier, 1);
      ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
      for (int i = 0; i < 2; ++i) {
        const uint32_t bytes = static_cast<uint32_t>(i ? second : first) * sizeof(float);
        ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &arrived[i], bytes);
      }
    }
    ptx::barrier_cluster_arrive(ptx::sem_relaxed);
#endif
  }
  // Before the first publish(): every block has started and has its mbarriers.
  __device__ void wait() const {
#if __CUDA_ARCH__ >= 900
    if (blocks_ > 1) ptx::barrier_cluster_wait();
#endif
  }
  // Writes a value that the whole warp has to *slot of every block.
  __device__ void publish(int exchange, float* slot, float value) const {
    const int lane = threadIdx.x % 32;
    if (lane >= blocks_) return;
#if __CUDA_ARCH__ >= 900
    using cooperative_groups::cluster_group;
    if (blocks_ > 1)
      return ptx::st_async(cluster_group::map_shared_rank(slot, lane), value,
                           cluster_group::map_shared_rank(&arrived_[exchange], lane));
#endif
    *slot = value;
  }
  // All that the row's warps publish in this exchange is visible after.
  __device__ void receive(int exchange) const {
#if __CUDA_ARCH__ >= 900
    if (blocks_ > 1) {
      while (!ptx::mbarrier_try_wait_parity(ptx::sem_acquire, ptx::scope_cluster, &arrived_[exchange], 0)) {
      }
      return;
    }
#endif
    __syncthreads();
  }

 private:
  int blocks_;
  uint64_t (&arrived_)[2];
};

// Programmatic dependent launch: waits for the kernel before this one, all its writes included. No memory of another
// kernel may be touched before it, but for weights that the caller vouches for.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// Lets the next kernel's blocks start. But for Overlap::kChain only after wait_for_previous(): the next kernel may
// fetch its weights before it waits for this one, and relies on everything older having ended.
__device__ inline void start_next() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

}  // namespace samebits::cuda
