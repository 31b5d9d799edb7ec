// Checks and dispatches the producers of FP8 activations: the CPU's in src/cpu, the GPU's in src/cuda, the same bits.
#include "samebits/fused.h"

#include <algorithm>

#include "core/check.h"
#include "cpu/fused.h"
#include "cuda/cuda.h"

namespace samebits {
namespace {

void check_same(const char* what, const ConstView& v, const ConstView& x, int64_t rows, int64_t cols) {
  check_view(what, v);
  if (v.rows != rows || v.cols != cols || v.dtype != x.dtype)
    bad_input("{} is [{},{}] {}; it must be [{},{}] {}", what, v.rows, v.cols, name(v.dtype), rows, cols,
              name(x.dtype));
}

void check_norm(const RmsNorm& norm, const View& out, const Launch& launch) {
  const ConstView& x = norm.x;
  check_float("x", x);
  check_same("weight", norm.weight, x, 1, x.cols);
  check_gpu("x", x, launch);
  check_gpu("weight", norm.weight, launch);
  if (!launch.device->is_cpu() && std::max(x.cols, out.cols) > cuda::max_norm_cols(x.dtype))
    bad_input("rms_norm of {} columns of {} into {} on a GPU; at most {}", x.cols, name(x.dtype), out.cols,
              cuda::max_norm_cols(x.dtype));
  if (!norm.residual && norm.residual_out) bad_input("residual_out without a residual");
  if (!norm.residual) return;
  check_same("residual", norm.residual, x, x.rows, x.cols);
  check_same("residual_out", norm.residual_out, x, x.rows, x.cols);
  check_written("residual_out", norm.residual_out);
  check_gpu("residual", norm.residual, launch);
  check_gpu("residual_out", norm.residual_out, launch);
}

// [gate | up] as the half that the output has the shape of.
ConstView check_gated(const ConstView& x, const Launch& launch) {
  check_float("x", x);
  if (x.cols % 2) bad_input("x is [{},{}]; it must have an even number of columns, gate and up", x.rows, x.cols);
  check_gpu("x", x, launch);
  return x.slice_cols(0, x.cols / 2);
}

void check_output(const View& y, const ConstView& x, const Launch& launch) {
  check_same("y", y, x, x.rows, x.cols);
  check_written("y", y);
  check_gpu("y", y, launch);
}

void check_quantized(const View& q, const float* scale, const ConstView& x, const Launch& launch) {
  check_pair(x, q, true);
  check_gpu("q", q, launch);
  if (!scale && x.rows) bad_input("scale: null pointer for {} rows", x.rows);
}

void check_quantized(const View& q, const GroupScales& scales, const ConstView& x, const Launch& launch) {
  check_pair(x, q, true);
  check_gpu("q", q, launch);
  check_groups(scales, x);
}

}  // namespace

void rms_norm(const RmsNorm& norm, View y, const Launch& launch) {
  check_norm(norm, y, launch);
  check_output(y, norm.x, launch);
  if (y.rows == 0 || y.cols == 0) return;
  if (launch.device->is_cpu()) return cpu::rms_norm(norm, y, launch.threads);
  cuda::rms_norm(norm, y, launch);
}

void rms_norm_quantize(const RmsNorm& norm, View q, float* scale, const float* upper_bound, const Launch& launch) {
  check_norm(norm, q, launch);
  check_quantized(q, scale, norm.x, launch);
  if (q.rows == 0) return;
  if (launch.device->is_cpu()) return cpu::rms_norm_quantize(norm, q, scale, upper_bound, launch.threads);
  cuda::rms_norm_quantize(norm, q, scale, upper_bound, launch);
}

void rms_norm_quantize_per_group(const RmsNorm& norm, View q, const GroupScales& scales, const Launch& launch) {
  check_norm(norm, q, launch);
  check_quantized(q, scales, norm.x, launch);
  if (q.rows == 0) return;
  if (launch.device->is_cpu()) return cpu::rms_norm_quantize_per_group(norm, q, scales, launch.threads);
  cuda::rms_norm_quantize_per_group(norm, q, scales, launch);
}

void silu_mul(ConstView x, View y, const Launch& launch) {
  check_output(y, check_gated(x, launch), launch);
  if (y.rows == 0 || y.cols == 0) return;
  if (launch.device->is_cpu()) return cpu::silu_mul(x, y, launch.threads);
  cuda::silu_mul(x, y, launch);
}

void silu_mul_quantize(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch) {
  check_quantized(q, scale, check_gated(x, launch), launch);
  if (q.rows == 0) return;
  if (launch.device->is_cpu()) return cpu::silu_mul_quantize(x, q, scale, upper_bound, launch.threads);
  cuda::silu_mul_quantize(x, q, scale, upper_bound, launch);
}

void silu_mul_quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch) {
  check_quantized(q, scales, check_gated(x, launch), launch);
  if (q.rows == 0) return;
  if (launch.device->is_cpu()) return cpu::silu_mul_quantize_per_group(x, q, scales, launch.threads);
  cuda::silu_mul_quantize_per_group(x, q, scales, launch);
}

}  // namespace samebits
