// Activation quantizers, RMSNorm and SiLU * mul on the GPU: which threads take a row, and the launch. Called by
// src/core/quantize.cpp and src/core/fused.cpp, which have checked shapes and dtypes.
#include "cuda/rows.cuh"

#include <algorithm>
#include <bit>

#include "cuda/cuda.h"
#include "cuda/error.h"
#include "cuda/launch.h"

namespace samebits::cuda {
namespace {

constexpr int64_t kMaxRows = int64_t{1} << 27;  // of one launch: a grid has less than 2^31 blocks

struct Shape {
  int blocks, threads, vectors;  // vectors 0: the row is not kept
};

int whole_warps(int64_t threads) { return static_cast<int>(std::max<int64_t>(1, ceil_div(threads, 32)) * 32); }

// `count` vectors of 16 bytes a row. Few rows: a row is spread over a cluster, as long as a block has `least` vectors
// and not all multiprocessors have a block. Many rows: up to four vectors a thread, so that a row has fewer warps to
// meet. A row that is too long for the registers of one block is spread too.
Shape shape_of(int64_t rows, int64_t count, bool regular, int least, const DeviceInfo& device) {
  constexpr int64_t kKept = kMaxVectors * max_threads(kMaxVectors);
  int blocks = 1;
  while (regular && device.arch >= 90 && blocks < kMaxBlocks &&
         (count > kKept * blocks || (rows * blocks <= device.sms && count >= int64_t{least} * blocks * 2)))
    blocks *= 2;
  const int64_t own = std::max<int64_t>(1, ceil_div(count, blocks));
  if (!regular || own > kKept) return {1, whole_warps(std::min<int64_t>(count, 1024)), 0};
  const bool many = rows * blocks > 2 * device.sms;
  int vectors = 1;
  while (own > int64_t{vectors} * (many ? 256 : 1024) && vectors < kMaxVectors) vectors *= 2;
  return {blocks, whole_warps(ceil_div(own, vectors)), vectors};
}

bool on(size_t bytes, const void* data, int64_t stride, size_t size) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0 && static_cast<size_t>(stride) * size % bytes == 0;
}

// Everything of the arguments but what the producer adds.
template <class T>
RowArgs<T> args_of(const ConstView& x, int64_t cols, const View& out, float* scale, const float* upper_bound,
                   const Launch& launch) {
  RowArgs<T> a{};
  a.x = static_cast<const T*>(x.data);
  a.x_stride = x.row_stride;
  a.cols = cols;
  a.out = out.data;
  a.out_stride = out.row_stride;
  a.out_cols = out.cols;
  a.scale = scale;
  a.upper_bound = upper_bound;
  a.early_weight = launch.overlap >= Overlap::kWeight;
  a.chain = launch.overlap == Overlap::kChain;
  a.start_next = launch.overlap != Overlap::kNone;
  return a;
}

template <Produce kProduce, Out kOut, class T>
void run(RowArgs<T> a, int64_t rows, const Launch& launch) {
  constexpr size_t kSize = sizeof(T), kCodes = kElements<T>;
  const bool reads = on(16, a.x, a.x_stride, kSize) && on(16, a.weight, 0, kSize) &&
                     on(16, a.residual, a.residual_stride, kSize) &&
                     on(16, a.residual_out, a.residual_out_stride, kSize) &&
                     (kProduce != Produce::kSiluMul || on(16, nullptr, a.cols, kSize));
  const bool writes = kOut == Out::kCast ? on(16, a.out, a.out_stride, kSize) : on(kCodes, a.out, a.out_stride, 1);
  const bool regular = reads && writes && a.cols % kElements<T> == 0 && a.out_cols % kElements<T> == 0;
  const int64_t count = ceil_div(std::max(a.cols, a.out_cols), kElements<T>);
  const int least = kProduce == Produce::kSiluMul ? 128 : 256;  // the SiLU is twice the work
  const Shape shape = shape_of(rows, count, regular, least, *launch.device);
  a.aligned = reads;
  a.log_blocks = std::countr_zero(static_cast<unsigned>(shape.blocks));
  a.vectors = static_cast<int>(ceil_div(count, shape.threads));
  const auto kernel = shape.vectors == 4   ? rows_kernel<kProduce, kOut, T, 4>
                      : shape.vectors == 2 ? rows_kernel<kProduce, kOut, T, 2>
                      : shape.vectors == 1 ? rows_kernel<kProduce, kOut, T, 1>
                                           : rows_kernel<kProduce, kOut, T, 0>;
  const bool cluster = kOut == Out::kPerToken || kProduce == Produce::kRmsNorm;
  for (a.first_row = 0; a.first_row < rows; a.first_row += kMaxRows) {
    const auto blocks = static_cast<unsigned>(std::min(rows - a.first_row, kMaxRows) * shape.blocks);
    const Grid grid{blocks, static_cast<unsigned>(shape.threads), cluster ? static_cast<unsigned>(shape.blocks) : 1};
    launch_kernel("rows_kernel", kernel, grid, launch, a);
  }
}

// Where the scales of groups go.
template <class T>
void set_groups(RowArgs<T>& a, const GroupScales* groups) {
  if (!groups) return;
  a.scale = static_cast<float*>(groups->scale.data);
  a.scale_row_stride = groups->scale.row_stride;
  a.scale_col_stride = groups->scale.col_stride;
  a.power_of_two = groups->power_of_two;
}

template <Out kOut>
void run_norm(const RmsNorm& norm, View out, float* scale, const float* upper_bound, const Launch& launch,
              const GroupScales* groups = nullptr) {
  with_float_type(norm.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    RowArgs<T> a = args_of<T>(norm.x, norm.x.cols, out, scale, upper_bound, launch);
    set_groups(a, groups);
    a.weight = static_cast<const T*>(norm.weight.data);
    a.epsilon = norm.epsilon;
    a.residual = static_cast<const T*>(norm.residual.data);
    a.residual_stride = norm.residual.row_stride;
    a.residual_out = static_cast<T*>(norm.residual_out.data);
    a.residual_out_stride = norm.residual_out.row_stride;
    run<Produce::kRmsNorm, kOut>(a, norm.x.rows, launch);
  });
}

template <Produce kProduce, Out kOut>
void run_plain(ConstView x, int64_t cols, View out, float* scale, const float* upper_bound, const Launch& launch,
               const GroupScales* groups = nullptr) {
  with_float_type(x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    RowArgs<T> a = args_of<T>(x, cols, out, scale, upper_bound, launch);
    set_groups(a, groups);
    run<kProduce, kOut>(a, x.rows, launch);
  });
}

}  // namespace

void quantize_per_token(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch) {
  run_plain<Produce::kCopy, Out::kPerToken>(x, x.cols, q, scale, upper_bound, launch);
}

void quantize_static(ConstView x, const float* scale, View q, const Launch& launch) {
  run_plain<Produce::kCopy, Out::kStatic>(x, x.cols, q, const_cast<float*>(scale), nullptr, launch);
}

void quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch) {
  run_plain<Produce::kCopy, Out::kPerGroup>(x, x.cols, q, nullptr, nullptr, launch, &scales);
}

void rms_norm(const RmsNorm& norm, View y, const Launch& launch) {
  run_norm<Out::kCast>(norm, y, nullptr, nullptr, launch);
}

void rms_norm_quantize(const RmsNorm& norm, View q, float* scale, const float* upper_bound, const Launch& launch) {
  run_norm<Out::kPerToken>(norm, q, scale, upper_bound, launch);
}

void rms_norm_quantize_per_group(const RmsNorm& norm, View q, const GroupScales& scales, const Launch& launch) {
  run_norm<Out::kPerGroup>(norm, q, nullptr, nullptr, launch, &scales);
}

void silu_mul(ConstView x, View y, const Launch& launch) {
  run_plain<Produce::kSiluMul, Out::kCast>(x, x.cols / 2, y, nullptr, nullptr, launch);
}

void silu_mul_quantize(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch) {
  run_plain<Produce::kSiluMul, Out::kPerToken>(x, x.cols / 2, q, scale, upper_bound, launch);
}

void silu_mul_quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch) {
  run_plain<Produce::kSiluMul, Out::kPerGroup>(x, x.cols / 2, q, nullptr, nullptr, launch, &scales);
}

}  // namespace samebits::cuda
