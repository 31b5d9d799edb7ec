// See unit.h. Note: shared memory holds 8 x 16 byte core matrices without swizzle, K-major (PTX ISA, wgmma layouts). An
// instruction takes 32 bytes of K whatever the element: 32 FP8 or 16 of 16 bits, so all of K is counted in bytes here.
#include <cuda_runtime.h>

#include "cuda/cuda.h"
#include "cuda/error.h"
#include "record/unit.h"

namespace samebits::record {
namespace {

constexpr int kM = 64, kN = 8, kK = 32, kCore = 128;  // kK: bytes of K; kCore: bytes of a core matrix

__device__ uint64_t descriptor(const void* shared, uint32_t leading_bytes, uint32_t stride_bytes) {
  const uint64_t address = __cvta_generic_to_shared(shared);
  return (address >> 4 & 0x3fff) | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4) << 32;
}

// Operand types of the instruction.
enum class Types { kE4m3E4m3, kE4m3E5m2, kE5m2E4m3, kE5m2E5m2, kBf16, kF16 };

#define SAMEBITS_WGMMA(shape, types, transposes)                                                                    \
  asm volatile("wgmma.mma_async.sync.aligned." shape ".f32." types " {%0,%1,%2,%3}, %4, %5, 1, 1, 1" transposes ";" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                     \
               : "l"(a), "l"(b))

template <Types kTypes>
__device__ void mma(float (&d)[4], uint64_t a, uint64_t b) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  if constexpr (kTypes == Types::kE4m3E4m3)
    SAMEBITS_WGMMA("m64n8k32", "e4m3.e4m3", "");
  else if constexpr (kTypes == Types::kE4m3E5m2)
    SAMEBITS_WGMMA("m64n8k32", "e4m3.e5m2", "");
  else if constexpr (kTypes == Types::kE5m2E4m3)
    SAMEBITS_WGMMA("m64n8k32", "e5m2.e4m3", "");
  else if constexpr (kTypes == Types::kE5m2E5m2)
    SAMEBITS_WGMMA("m64n8k32", "e5m2.e5m2", "");
  else if constexpr (kTypes == Types::kBf16)
    SAMEBITS_WGMMA("m64n8k16", "bf16.bf16", ", 0, 0");  // neither operand transposed
  else
    SAMEBITS_WGMMA("m64n8k16", "f16.f16", ", 0, 0");
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// Rows x 32 bytes of a K-major matrix into core matrices; past the end of K, zeros.
__device__ void stage(uint8_t* shared, const uint8_t* data, int rows, int k0, int k) {
  for (int i = threadIdx.x; i < rows * kK; i += blockDim.x) {
    const int row = i / kK, col = i % kK;
    const int core = col / 16 * (rows / 8) + row / 8;
    shared[core * kCore + row % 8 * 16 + col % 16] = k0 + col < k ? data[static_cast<int64_t>(row) * k + k0 + col] : 0;
  }
}

template <Types kTypes>
__global__ void accumulate(const uint8_t* a, const uint8_t* b, int n, int k, int promote_every, float* out) {
  __shared__ alignas(128) uint8_t tile_a[kM * kK], tile_b[kN * kK];
  a += static_cast<int64_t>(blockIdx.x) * kM * k;
  b += static_cast<int64_t>(blockIdx.y) * kN * k;
  float total[4] = {}, chain[4] = {};
  for (int k0 = 0; k0 < k; k0 += kK) {
    stage(tile_a, a, kM, k0, k);
    stage(tile_b, b, kN, k0, k);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    mma<kTypes>(chain, descriptor(tile_a, kM / 8 * kCore, kCore), descriptor(tile_b, kN / 8 * kCore, kCore));
    __syncthreads();
    if (promote_every && ((k0 + kK) % promote_every == 0 || k0 + kK >= k))
      for (int i = 0; i < 4; ++i) total[i] = __fadd_rn(total[i], chain[i]), chain[i] = 0.0f;
  }
  const float* result = promote_every ? total : chain;
  const int row = static_cast<int>(blockIdx.x) * kM + static_cast<int>(threadIdx.x) / 32 * 16 + threadIdx.x % 32 / 4;
  const int col = static_cast<int>(blockIdx.y) * kN + threadIdx.x % 4 * 2;
  for (int i = 0; i < 4; ++i) out[static_cast<int64_t>(row + i / 2 * 8) * n + col + i % 2] = result[i];
}

}  // namespace

void wgmma_accumulate(ConstView a, ConstView b, int promote_every, float* out) {
  const int size = static_cast<int>(size_of(a.dtype));
  const int m = static_cast<int>(a.rows), n = static_cast<int>(b.rows), k = static_cast<int>(a.cols) * size;
  cuda::Buffer da(static_cast<size_t>(m) * k), db(static_cast<size_t>(n) * k), dout(sizeof(float) * m * n);
  da.upload(a.data, da.size());
  db.upload(b.data, db.size());
  const dim3 grid(m / kM, n / kN);
  const auto run = [&](auto kernel) {
    kernel<<<grid, 128>>>(static_cast<uint8_t*>(da.data()), static_cast<uint8_t*>(db.data()), n, k,
                          promote_every * size, static_cast<float*>(dout.data()));
  };
  const bool a5 = a.dtype == Dtype::kE5m2, b5 = b.dtype == Dtype::kE5m2;
  if (size == 2)
    a.dtype == Dtype::kBf16 ? run(accumulate<Types::kBf16>) : run(accumulate<Types::kF16>);
  else if (a5)
    b5 ? run(accumulate<Types::kE5m2E5m2>) : run(accumulate<Types::kE5m2E4m3>);
  else
    b5 ? run(accumulate<Types::kE4m3E5m2>) : run(accumulate<Types::kE4m3E4m3>);
  cuda::check(cudaGetLastError(), "wgmma_accumulate");
  dout.download(out, dout.size());
}

}  // namespace samebits::record
