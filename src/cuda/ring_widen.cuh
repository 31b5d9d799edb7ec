// e4m3 weights beside 16-bit tokens in a Ring kernel: widened exactly on their way from shared memory to the registers
// that wgmma takes its first operand from. Used by ring.cuh.
#pragma once
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cutlass/float8.h>
#include <cutlass/numeric_types.h>
#include <cute/arch/mma_sm90.hpp>

#include <utility>

namespace samebits::cuda {

/// 64 weight rows in registers x kCols tokens x 16 elements of K.
template <class A, int kCols>
using WidenedAtom =
    decltype(cute::SM90::GMMA::rs_op_selector<A, A, float, cute::Shape<cute::_64, cute::Int<kCols>, cute::_16>,
                                              cute::GMMA::Major::K, cute::GMMA::Major::K>());

/// What one thread holds of 64 weight rows x 128 elements of K: the codes, and as wgmma's m64k16 fragments of A (bf16
/// or fp16).
template <class A>
struct Widened {
  static constexpr int kSteps = 8;  // of 16 elements
  uint16_t codes[kSteps][4];
  uint32_t fragment[kSteps][4];

  /// Two e4m3 codes -> two elements of A, exactly: e4m3 is a subset of both.
  static __device__ uint32_t widen(uint16_t codes) {
    const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(codes, __NV_E4M3);
    if constexpr (cute::is_same_v<A, cutlass::half_t>) {
      return static_cast<uint32_t>(halves.y) << 16 | halves.x;
    } else {
      const float2 wide = __half22float2(__half2(halves));
      uint32_t packed;
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(wide.y), "f"(wide.x));
      return packed;
    }
  }

  /// From rows of 128 bytes that lie with the 128-byte swizzle: the 16 bytes of a step stay together.
  /// PTX ISA, "Register Fragments" of wgmma.m64nNk16: thread 4g + t of a warp holds columns 2t, 2t+1, 2t+8, 2t+9 of
  /// rows g and g + 8 of the warp's 16. Rows past those that were loaded hold anything: their outputs are not stored.
  __device__ void load(const uint8_t* block) {
    const int thread = threadIdx.x % 128, g = thread % 32 / 4, t = thread % 4;
    const uint8_t* const row = block + (thread / 32 * 16 + g) * 128 + 2 * t;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        codes[step][i] = *reinterpret_cast<const uint16_t*>(row + (step ^ g) * 16 + i % 2 * 8 * 128 + i / 2 * 8);
  }
  __device__ void widen(int step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      fragment[step][i] = widen(codes[step][i]);
      cute::warpgroup_fence_operand(fragment[step][i]);
    }
  }

  template <class Atom, int kAcc>
  __device__ void multiply(float (&d)[kAcc], int step, uint64_t tokens, bool accumulate) const {
    multiply<Atom>(d, step, tokens, accumulate, std::make_index_sequence<kAcc>{});
  }

 private:
  template <class Atom, int kAcc, size_t... kI>
  __device__ void multiply(float (&d)[kAcc], int step, uint64_t tokens, bool accumulate,
                           std::index_sequence<kI...>) const {
    const auto& f = fragment[step];
    Atom::fma(f[0], f[1], f[2], f[3], tokens, d[kI]...,
              accumulate ? cute::GMMA::ScaleOut::One : cute::GMMA::ScaleOut::Zero);
  }
};

}  // namespace samebits::cuda
