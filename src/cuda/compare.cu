// Compares outputs on the GPU by bits, so that verify can hold a billion of them to their rows computed alone.
#include "cuda/cuda.h"
#include "cuda/error.h"

namespace samebits::cuda {
namespace {

template <class Bits>
__global__ void compare_kernel(const Bits* got, int64_t got_stride, const Bits* want, int64_t want_stride,
                               int64_t want_rows, int64_t first_row, int64_t rows, int64_t cols, Difference* total) {
  unsigned long long count = 0, first = ~0ull;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const Bits* g = got + row * got_stride;
    const Bits* w = want + (first_row + row) % want_rows * want_stride;
    for (int64_t col = threadIdx.x; col < cols; col += blockDim.x)
      if (g[col] != w[col]) {
        ++count;
        const unsigned long long index = row * cols + col;
        if (index < first) first = index;
      }
  }
  if (!count) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(&total->count), count);
  atomicMin(reinterpret_cast<unsigned long long*>(&total->first), first);
}

template <class Bits>
void launch(const ConstView& got, const ConstView& want, int64_t first_row, Difference* total, cudaStream_t stream) {
  const int blocks = static_cast<int>(got.rows < 4096 ? got.rows : 4096);
  compare_kernel<<<blocks, 256, 0, stream>>>(static_cast<const Bits*>(got.data), got.row_stride,
                                             static_cast<const Bits*>(want.data), want.row_stride, want.rows, first_row,
                                             got.rows, got.cols, total);
  check(cudaGetLastError(), "compare_rows");
}

}  // namespace

void compare_rows(ConstView got, ConstView reference, int64_t first_row, Difference* total, void* stream) {
  if (got.rows == 0 || got.cols == 0) return;
  const auto s = static_cast<cudaStream_t>(stream);
  switch (size_of(got.dtype)) {
    case 1: return launch<uint8_t>(got, reference, first_row, total, s);
    case 2: return launch<uint16_t>(got, reference, first_row, total, s);
    default: return launch<uint32_t>(got, reference, first_row, total, s);
  }
}

}  // namespace samebits::cuda
