// Weight quantizers and dequantize on the GPU: the formulas of docs/contract.md with every rounding spelled out
// (__fdiv_rn, __fmul_rn), so that no compiler flag can change a bit. Called by src/core/quantize.cpp. Activations:
// rows.cu.
#include "cuda/cuda.h"
#include "cuda/error.h"
#include "cuda/row.cuh"

namespace samebits::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 132 * 16;
constexpr int kGroupShift = 7;
static_assert(kGroup == 1 << kGroupShift);

__device__ void from_float(float& y, float x) { y = canonical(x); }
__device__ void from_float(__half& y, float x) { y = __float2half_rn(x); }
__device__ void from_float(__nv_bfloat16& y, float x) { y = __float2bfloat16_rn(x); }

// Clamps to +-448 and casts. A NaN fails both comparisons and reaches the cast, which gives 0x7f.
__device__ uint8_t to_e4m3(float x) {
  x = x > kE4m3Max ? kE4m3Max : x;
  x = x < -kE4m3Max ? -kE4m3Max : x;
  return x != x ? 0x7f : __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

// max is exact whatever the order, so the tree may have any shape. fmaxf drops NaN, as the contract says.
__device__ float block_max(float x) {
  __shared__ float partial[kThreads / 32];
  for (int lane = 16; lane; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, lane));
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = partial[0];
  for (int i = 1; i < kThreads / 32; ++i) x = fmaxf(x, partial[i]);
  return x;
}

template <class T>
__device__ float row_absmax(const T* x, int64_t cols) {
  float absmax = 0.0f;
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) absmax = fmaxf(absmax, fabsf(to_float(x[i])));
  return block_max(absmax);
}

// Non-negative floats order as their bits do, so an integer atomicMax is the maximum in any order of arrival.
template <class T>
__global__ void absmax_kernel(const T* x, int64_t x_stride, int64_t rows, int64_t cols, float* absmax) {
  float mine = 0.0f;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) mine = fmaxf(mine, row_absmax(x + row * x_stride, cols));
  if (threadIdx.x == 0) atomicMax(reinterpret_cast<int*>(absmax), __float_as_int(mine));
}

__global__ void scale_kernel(float* absmax) { *absmax = scale_of(*absmax); }

template <class T>
__global__ void divide_kernel(const T* x, int64_t x_stride, int64_t rows, int64_t cols, uint8_t* q, int64_t q_stride,
                              const float* scale) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (int64_t i = threadIdx.x; i < cols; i += kThreads)
      q[row * q_stride + i] = to_e4m3(__fdiv_rn(to_float(x[row * x_stride + i]), *scale));
}

// One block of 128 x 128 at a time: a warp reads a row of it.
template <class T>
__global__ void quantize_blocks_kernel(const T* x, int64_t x_stride, int64_t rows, int64_t cols, uint8_t* q,
                                       int64_t q_stride, float* scale) {
  const int64_t across = groups_along(cols), blocks = groups_along(rows) * across;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t first_row = block / across * kGroup, first_col = block % across * kGroup;
    const auto each = [&](auto body) {
      for (int i = threadIdx.x; i < kGroup * kGroup; i += kThreads) {
        const int64_t row = first_row + i / kGroup, col = first_col + i % kGroup;
        if (row < rows && col < cols) body(row, col);
      }
    };
    float absmax = 0.0f;
    each([&](int64_t row, int64_t col) { absmax = fmaxf(absmax, fabsf(to_float(x[row * x_stride + col]))); });
    const float s = scale_of(block_max(absmax));
    if (threadIdx.x == 0) scale[block] = s;
    each([&](int64_t row, int64_t col) {
      q[row * q_stride + col] = to_e4m3(__fdiv_rn(to_float(x[row * x_stride + col]), s));
    });
  }
}

// Where the scale of an element lies: one for all, one for each row, or one for each block.
struct ScaleIndex {
  const float* data;
  int64_t row_stride, col_stride;
  int row_shift;
  __device__ float at(int64_t row, int64_t col) const {
    return data[(row >> row_shift) * row_stride + (col >> kGroupShift) * col_stride];
  }
};

template <class From, class To>
__global__ void dequantize_kernel(const From* q, int64_t q_stride, int64_t rows, int64_t cols, ScaleIndex scale,
                                  To* out, int64_t out_stride) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (int64_t i = threadIdx.x; i < cols; i += kThreads)
      from_float(out[row * out_stride + i], __fmul_rn(to_float(q[row * q_stride + i]), scale.at(row, i)));
}

int blocks_for(int64_t rows) { return static_cast<int>(rows < kMaxBlocks ? rows : kMaxBlocks); }

}  // namespace

void quantize_weight(ConstView w, Granularity granularity, View q, float* scale, const Launch& launch) {
  if (w.rows == 0) return;
  // Neither starts early nor lets the next kernel start: a GEMM may fetch its weights before it waits.
  Launch alone = launch;
  alone.overlap = Overlap::kNone;
  if (granularity == Granularity::kPerChannel) return cuda::quantize_per_token(w, q, scale, nullptr, alone);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  if (granularity == Granularity::kPerBlock) {
    if (w.cols == 0) return;
    const int64_t blocks = weight_scales(granularity, w.rows, w.cols);
    with_float_type(w.dtype, [&](auto type) {
      const auto data = static_cast<const typename decltype(type)::type*>(w.data);
      quantize_blocks_kernel<<<blocks_for(blocks), kThreads, 0, stream>>>(
          data, w.row_stride, w.rows, w.cols, static_cast<uint8_t*>(q.data), q.row_stride, scale);
    });
    return check(cudaGetLastError(), "quantize_weight");
  }
  check(cudaMemsetAsync(scale, 0, sizeof(float), stream), "quantize_weight");
  with_float_type(w.dtype, [&](auto type) {
    const auto data = static_cast<const typename decltype(type)::type*>(w.data);
    absmax_kernel<<<blocks_for(w.rows), kThreads, 0, stream>>>(data, w.row_stride, w.rows, w.cols, scale);
    scale_kernel<<<1, 1, 0, stream>>>(scale);
    divide_kernel<<<blocks_for(w.rows), kThreads, 0, stream>>>(data, w.row_stride, w.rows, w.cols,
                                                               static_cast<uint8_t*>(q.data), q.row_stride, scale);
  });
  check(cudaGetLastError(), "quantize_weight");
}

void dequantize(ConstView q, const Scales& scale, View out, const Launch& launch) {
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const bool blocks = of_blocks(scale, q.rows);
  const ScaleIndex index{scale.data, scale.is_per_tensor() ? 0 : scale.row_stride, blocks ? scale.col_stride : 0,
                         blocks ? kGroupShift : 0};
  const auto run = [&](auto* from) {
    with_float_type(out.dtype, [&](auto type) {
      using To = typename decltype(type)::type;
      dequantize_kernel<<<blocks_for(q.rows), kThreads, 0, stream>>>(from, q.row_stride, q.rows, q.cols, index,
                                                                     static_cast<To*>(out.data), out.row_stride);
    });
  };
  if (q.dtype == Dtype::kE4m3)
    run(static_cast<const __nv_fp8_e4m3*>(q.data));
  else
    run(static_cast<const __nv_fp8_e5m2*>(q.data));
  check(cudaGetLastError(), "dequantize");
}

}  // namespace samebits::cuda
