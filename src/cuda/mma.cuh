// One row of a table for GPUs whose matrix unit is the warp's mma.sync: Ampere (sm80.def, 16-bit operands), Ada
// (sm89.def, FP8) and consumer Blackwell (sm120.def). Tiles come through cp.async into a ring of shared-memory stages;
// warps multiply m16n8k32 blocks of FP8 or m16n8k16 blocks of 16 bits, whose fragments are the same bytes. Why not
// CUTLASS 2.x: its iterators load the remainder of K first, so with K not a multiple of the K tile its partial sums are
// cut at other places than the contract's, and its promotion interval is tied to the K tile.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "cuda/by_dtype.h"
#include "cuda/launch.h"
#include "cuda/operands.h"
#include "cuda/tile.h"
#include "cuda/widen.h"

namespace samebits::cuda {

/// The schedule words of the tables: warps along the rows and along the columns of the tile.
struct Warps4x1 {
  static constexpr int kRows = 4, kCols = 1;
};
struct Warps2x2 {
  static constexpr int kRows = 2, kCols = 2;
};
struct Warps2x4 {
  static constexpr int kRows = 2, kCols = 4;
};

struct MmaParams {
  const uint8_t *x, *y;                    // first and second operand of the MMA: tokens and weight, or swapped
  int64_t x_stride, y_stride, out_stride;  // bytes; elements of out
  int x_rows, y_rows, k, tiles_x, tiles_y;
  const float *scale_a, *scale_b;
  const void* bias;
  void* out;
  bool per_token, per_channel, fp16;
};

template <class Row>
__global__ void mma_kernel(const MmaParams p);
template <class Row, Dtype kA, Dtype kB>
struct Mma;

/// What is fixed when a row is compiled, but for the element types. kArch makes the kernel's symbol the architecture's
/// own: two objects that register one host stub would take each other's code. kTileK in elements.
template <int kTheArch, int kTheTileM, int kTheTileN, int kTheTileK, class TheSchedule, OperandWord kTheOperands,
          Order kTheOrder, OutKind kTheOut>
struct MmaRow {
  using Schedule = TheSchedule;
  static constexpr int kTileM = kTheTileM, kTileN = kTheTileN, kTileK = kTheTileK;
  static constexpr bool kSwapped = kTheOperands != OperandWord::Straight;
  static constexpr bool kWeightOnly = kTheOperands == OperandWord::WeightOnly;
  static constexpr Order kOrder = kTheOrder;
  static constexpr OutKind kOut = kTheOut;
  template <Dtype kA, Dtype kB>
  using Kernel = Mma<MmaRow, kA, kB>;
};

/// A row's kernel for tokens of dtype kA and weights of kB: the same, or e4m3 beside 16 bits (weight-only: widened on
/// the way from shared memory to the registers).
template <class Row, Dtype kA, Dtype kB>
struct Mma : Row {
  using Row::kTileM, Row::kTileN, Row::kTileK, Row::kSwapped, Row::kOrder, Row::kOut;
  using Schedule = typename Row::Schedule;
  static constexpr Dtype kX = kSwapped ? kB : kA, kY = kSwapped ? kA : kB;
  static constexpr bool kWidens = kX != kY;
  static_assert(!kWidens || (kX == Dtype::kE4m3 && size_of(kY) == 2), "only an e4m3 weight is widened");
  static constexpr int kXBytes = kTileK * size_of(kX), kYBytes = kTileK * size_of(kY);  // of a row of a stage
  static constexpr int kPromoteEvery = spec(kOrder).promote_every;
  static constexpr bool kPromoted = kPromoteEvery != 0;
  static constexpr int kThreads = 32 * Schedule::kRows * Schedule::kCols;
  static constexpr int kWarpM = kTileM / Schedule::kRows, kWarpN = kTileN / Schedule::kCols;
  static constexpr int kBlocksM = kWarpM / 16, kBlocksN = kWarpN / 8;  // MMAs of a warp
  static constexpr int kStageBytes = kTileM * kXBytes + kTileN * kYBytes;
  // Two blocks share the 100 KB of an SM.
  static constexpr int kStages = std::clamp((48 << 10) / kStageBytes, 2, 5);
  static constexpr int kTokens = kSwapped ? kTileN : kTileM, kChannels = kSwapped ? kTileM : kTileN;
  static constexpr int kOutBytes = kOut == OutKind::kHalf ? 2 : 4;
  static constexpr int kPitch = kChannels * kOutBytes + 16;  // bytes between tokens of the staged output
  static constexpr int kShared = std::max(kStages * kStageBytes, kTokens* kPitch);
  static constexpr int kGroup = 8;  // tiles along x that run before the next one along y: keeps both in L2
  static_assert(kTileM % (16 * Schedule::kRows) == 0 && kTileN % (16 * Schedule::kCols) == 0, "whole MMAs, in pairs");
  static_assert(!kPromoted || kPromoteEvery % kTileK == 0, "K tile must divide the promotion interval");

  /// Where chunk `chunk` of 16 bytes of a row lies: eight rows of one chunk are in eight different groups of banks.
  template <int kRowBytes>
  static __device__ int at(int row, int chunk) {
    static_assert(kRowBytes == 64 || kRowBytes == 128 || kRowBytes == 256, "what the swizzle is for");
    return row * kRowBytes + (kRowBytes == 64 ? chunk ^ row / 2 % 4 : chunk ^ row % 8) * 16;
  }

  /// Rows [first, first + kRows) of an operand of `rows` rows of k_bytes, from byte k0 on; zeros where there is
  /// nothing.
  template <int kRows, int kRowBytes>
  static __device__ void load(uint32_t to, const uint8_t* operand, int64_t stride, int first, int rows, int k0,
                              int k_bytes) {
    constexpr int kChunks = kRowBytes / 16;
    static_assert(kRows * kChunks % kThreads == 0, "every thread loads as many chunks");
#pragma unroll
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int index = i * kThreads + threadIdx.x, row = index / kChunks, chunk = index % kChunks;
      const int k = k0 + chunk * 16, bytes = first + row < rows ? max(0, min(16, k_bytes - k)) : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + at<kRowBytes>(row, chunk)),
                   "l"(bytes ? operand + (first + row) * stride + k : operand), "r"(bytes));  // zeros past `bytes`
    }
  }
  static __device__ void load_stage(const MmaParams& p, uint32_t stage, int x0, int y0, int step) {
    constexpr int kXSize = size_of(kX), kYSize = size_of(kY);
    load<kTileM, kXBytes>(stage, p.x, p.x_stride, x0, p.x_rows, step * kXBytes, p.k * kXSize);
    load<kTileN, kYBytes>(stage + kTileM * kXBytes, p.y, p.y_stride, y0, p.y_rows, step * kYBytes, p.k * kYSize);
  }

  static __device__ void ldmatrix(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
  }

  /// Two e4m3 codes at a shared-memory address -> two elements of kY.
  static __device__ uint32_t widened(uint32_t address) {
    uint16_t codes;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(codes) : "r"(address));
    constexpr WidenE4m3 kTo = kY == Dtype::kF16 ? kE4m3ToF16 : kE4m3ToBf16;
    const uint32_t moved = moved_e4m3(kTo, codes);
    uint32_t value;
    if constexpr (kY == Dtype::kF16)
      asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(value) : "r"(moved), "r"(kTo.scale));
    else  // sm_80 has no product of bf16 alone; -0 keeps the sign of a zero
      asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(value) : "r"(moved), "r"(kTo.scale), "r"(0x80008000));
    return value | nan_e4m3(kTo, moved);
  }

  /// 16 rows of the first operand x 32 bytes of K as the second has them: step `k` of a stage. PTX ISA, "Matrix
  /// Fragments for mma.m16n8k16": thread 4g + t holds columns 2t, 2t + 1, 2t + 8, 2t + 9 of rows g and g + 8.
  static __device__ void load_x(uint32_t (&a)[4], uint32_t stage, int row, int k) {
    const int lane = threadIdx.x % 32;
    if constexpr (kWidens) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i] = widened(stage + at<kXBytes>(row + lane / 4 + i % 2 * 8, k) + i / 2 * 8 + lane % 4 * 2);
    } else {
      ldmatrix(a, stage + at<kXBytes>(row + lane % 16, 2 * k + lane / 16));
    }
  }

  static __device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#define SAMEBITS_MMA(shape, types)                              \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." types  \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "   \
               "{%0,%1,%2,%3};"                                 \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if constexpr (kY == Dtype::kE4m3) SAMEBITS_MMA("m16n8k32", "e4m3.e4m3");
    if constexpr (kY == Dtype::kBf16) SAMEBITS_MMA("m16n8k16", "bf16.bf16");
    if constexpr (kY == Dtype::kF16) SAMEBITS_MMA("m16n8k16", "f16.f16");
#undef SAMEBITS_MMA
  }

  /// One stage, in order of K.
  static __device__ void advance(float (&acc)[kBlocksM][kBlocksN][4], uint32_t stage, int warp_m, int warp_n) {
    const int lane = threadIdx.x % 32;
    const uint32_t y = stage + kTileM * kXBytes;
#pragma unroll
    for (int k = 0; k < kYBytes / 32; ++k) {
      uint32_t a[kBlocksM][4], b[kBlocksN / 2][4];  // b: two blocks of 8 columns, each two halves of K
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i) load_x(a[i], stage, warp_m + i * 16, k);
#pragma unroll
      for (int j = 0; j < kBlocksN / 2; ++j)
        ldmatrix(b[j], y + at<kYBytes>(warp_n + j * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int j = 0; j < kBlocksN; ++j) multiply(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  }

  static __device__ float bias_of(const MmaParams& p, int channel) {
    if constexpr (kOut == OutKind::kFloat) return static_cast<const float*>(p.bias)[channel];
    const uint16_t bits = static_cast<const uint16_t*>(p.bias)[channel];
    return p.fp16 ? __half2float(__ushort_as_half(bits)) : __bfloat162float(__ushort_as_bfloat16(bits));
  }

  static __device__ void put(const MmaParams& p, uint8_t* to, float y) {
    if constexpr (kOut == OutKind::kFloat)
      *reinterpret_cast<float*>(to) = y;
    else
      *reinterpret_cast<uint16_t*>(to) =
          p.fp16 ? __half_as_ushort(__float2half_rn(y)) : __bfloat16_as_ushort(__float2bfloat16_rn(y));
  }

  /// t = scale_a * acc; out = cast(scale_b * t) or cast(fma(scale_b, t, bias)), through shared memory.
  static __device__ void store(const MmaParams& p, const float (&acc)[kBlocksM][kBlocksN][4], uint8_t* shared, int x0,
                               int y0, int warp_m, int warp_n) {
    const int m = kSwapped ? p.y_rows : p.x_rows, n = kSwapped ? p.x_rows : p.y_rows;
    const int token0 = kSwapped ? y0 : x0, channel0 = kSwapped ? x0 : y0, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int row = warp_m + i * 16 + lane / 4 + r / 2 * 8, col = warp_n + j * 8 + lane % 4 * 2 + r % 2;
          const int token = kSwapped ? col : row, channel = kSwapped ? row : col;
          if (token0 + token >= m || channel0 + channel >= n) continue;
          const float scale_a = p.scale_a ? p.scale_a[p.per_token ? token0 + token : 0] : 1.0f;
          const float scale_b = p.scale_b ? p.scale_b[p.per_channel ? channel0 + channel : 0] : 1.0f;
          const float t = __fmul_rn(scale_a, acc[i][j][r]);
          const float y = p.bias ? __fmaf_rn(scale_b, t, bias_of(p, channel0 + channel)) : __fmul_rn(scale_b, t);
          put(p, shared + token * kPitch + channel * kOutBytes, y);
        }
    __syncthreads();
    constexpr int kVectors = kChannels * kOutBytes / 16, kStep = 16 / kOutBytes;  // N is a multiple of 8 channels
    for (int i = threadIdx.x; i < kTokens * kVectors; i += kThreads) {
      const int token = i / kVectors, channel = i % kVectors * kStep;
      if (token0 + token >= m || channel0 + channel >= n) continue;
      uint8_t* row = static_cast<uint8_t*>(p.out) + (token0 + token) * p.out_stride * kOutBytes;
      *reinterpret_cast<uint4*>(row + int64_t{channel0 + channel} * kOutBytes) =
          *reinterpret_cast<const uint4*>(shared + token * kPitch + channel * kOutBytes);
    }
  }

  static __device__ void run(const MmaParams& p, uint8_t* shared) {
    const auto ring = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const int per_group = kGroup * p.tiles_y, group = blockIdx.x / per_group, rest = blockIdx.x - group * per_group;
    const int width = min(kGroup, p.tiles_x - group * kGroup);
    const int x0 = (group * kGroup + rest % width) * kTileM, y0 = rest / width * kTileN;
    const int warp = threadIdx.x / 32;
    const int warp_m = warp / Schedule::kCols * kWarpM, warp_n = warp % Schedule::kCols * kWarpN;
    const int steps = (p.k + kTileK - 1) / kTileK;
    float acc[kBlocksM][kBlocksN][4] = {}, total[kBlocksM][kBlocksN][4] = {};
    const auto promote = [&] {
#pragma unroll
      for (int i = 0; i < kBlocksM * kBlocksN * 4; ++i) {
        float &sum = (&total[0][0][0])[i], &chain = (&acc[0][0][0])[i];
        sum = __fadd_rn(sum, chain), chain = 0.0f;
      }
    };
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < steps) load_stage(p, ring + s * kStageBytes, x0, y0, s);
      asm volatile("cp.async.commit_group;");
    }
    for (int s = 0; s < steps; ++s) {
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2));
      __syncthreads();  // stage s is there, and stage s - 1 is free
      if (const int next = s + kStages - 1; next < steps)
        load_stage(p, ring + next % kStages * kStageBytes, x0, y0, next);
      asm volatile("cp.async.commit_group;");
      advance(acc, ring + s % kStages * kStageBytes, warp_m, warp_n);
      if constexpr (kPromoted)
        if ((s + 1) * kTileK % kPromoteEvery == 0 || s + 1 == steps) promote();
    }
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    store(p, kPromoted ? total : acc, shared, x0, y0, warp_m, warp_n);
  }

  static void launch(const GemmProblem& q, const Launch& launch) {
    const auto &x = kSwapped ? q.b : q.a, &y = kSwapped ? q.a : q.b;
    MmaParams p{};
    p.x = static_cast<const uint8_t*>(x.data), p.x_stride = x.row_stride * size_of(kX);
    p.y = static_cast<const uint8_t*>(y.data), p.y_stride = y.row_stride * size_of(kY);
    p.out = q.out.data, p.out_stride = q.out.row_stride;
    const int64_t tiles_x = (x.rows + kTileM - 1) / kTileM, tiles_y = (y.rows + kTileN - 1) / kTileN;
    if (tiles_x * tiles_y > INT32_MAX || std::max({q.m(), q.n(), q.k() * int64_t{size_of(kY)}}) > INT32_MAX - 1024)
      throw Error(ErrorCode::kUnsupported, "m=" + std::to_string(q.m()) + " n=" + std::to_string(q.n()) +
                                               " k=" + std::to_string(q.k()) + " are more than this row counts");
    p.x_rows = static_cast<int>(x.rows), p.y_rows = static_cast<int>(y.rows), p.k = static_cast<int>(q.k());
    p.tiles_x = static_cast<int>(tiles_x), p.tiles_y = static_cast<int>(tiles_y);
    p.scale_a = q.scale_a.data, p.per_token = !q.scale_a.is_per_tensor();
    p.scale_b = q.scale_b.data, p.per_channel = !q.scale_b.is_per_tensor();
    p.bias = q.bias.data, p.fp16 = q.out.dtype == Dtype::kF16;
    const Grid grid{static_cast<unsigned>(tiles_x * tiles_y), kThreads, 1, kShared};
    allow_all_shared_memory(&mma_kernel<Mma>, 0, *launch.device);
    launch_kernel("mma_kernel", &mma_kernel<Mma>, grid, launch, p);
  }
};

template <class Row>
__global__ void __launch_bounds__(Row::kThreads) mma_kernel(const MmaParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
#if __CUDA_ARCH__ >= 900  // a dependent launch: the operands are there, and what is older has ended
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  Row::run(p, shared);
}

}  // namespace samebits::cuda

// One kernel and its symbol `kernel_<name>` in the table's namespace, which tables.cpp declares from the same row.
#define SAMEBITS_DEFINE_TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  namespace samebits::cuda::SAMEBITS_TABLE {                                                                     \
  static_assert(cluster_m == 1 && cluster_n == 1, "mma.sync rows have no clusters");                             \
  extern const TileKernel kernel_##name;                                                                         \
  const TileKernel kernel_##name =                                                                               \
      kernels_by_dtype<MmaRow<SAMEBITS_TABLE_ARCH, tile_m, tile_n, tile_k, schedule, OperandWord::operands,      \
                              Order::k##order, OutKind::k##out>>();                                              \
  }
