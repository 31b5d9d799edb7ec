// Checks and dispatches the quantizers: the CPU's in src/cpu, the GPU's in src/cuda, the same bits from both.
#include "samebits/quantize.h"

#include "core/check.h"
#include "cpu/quantize.h"
#include "cuda/cuda.h"

namespace samebits {

void quantize_per_token(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch) {
  check_float("x", x);
  check_pair(x, q, true);
  if (x.rows == 0) return;
  if (!scale) bad_input("scale: null pointer for {} rows", x.rows);
  if (launch.device->is_cpu()) return cpu::quantize_per_token(x, q, scale, upper_bound, launch.threads);
  check_gpu("x", x, launch);
  check_gpu("q", q, launch);
  cuda::quantize_per_token(x, q, scale, upper_bound, launch);
}

void quantize_static(ConstView x, const float* scale, View q, const Launch& launch) {
  check_float("x", x);
  check_pair(x, q, true);
  if (x.rows == 0 || q.cols == 0) return;
  if (!scale) bad_input("scale: null pointer");
  if (launch.device->is_cpu()) return cpu::quantize_static(x, scale, q, launch.threads);
  check_gpu("x", x, launch);
  check_gpu("q", q, launch);
  cuda::quantize_static(x, scale, q, launch);
}

void quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch) {
  check_float("x", x);
  check_pair(x, q, true);
  check_groups(scales, x);
  if (x.rows == 0 || q.cols == 0) return;
  if (launch.device->is_cpu()) return cpu::quantize_per_group(x, q, scales, launch.threads);
  check_gpu("x", x, launch);
  check_gpu("q", q, launch);
  cuda::quantize_per_group(x, q, scales, launch);
}

void quantize_weight(ConstView w, Granularity granularity, View q, float* scale, std::string_view what,
                     const Launch& launch) {
  check_float("w", w);
  check_pair(w, q, false);
  if (!scale) bad_input("scale of {}: null pointer", what);
  if (launch.device->is_cpu()) return cpu::quantize_weight(w, granularity, q, scale, what, launch.threads);
  check_gpu("w", w, launch);
  check_gpu("q", q, launch);
  cuda::quantize_weight(w, granularity, q, scale, launch);
}

void dequantize(ConstView q, const Scales& scale, View out, const Launch& launch) {
  check_fp8("q", q);
  check_float("out", out);
  check_written("out", out);
  const bool blocks = of_blocks(scale, q.rows);
  if (!blocks)
    check_scales("scale", scale, q.rows);
  else if (!scale.data || scale.rows != groups_along(q.rows) || scale.cols != groups_along(q.cols))
    bad_input("scale: shape [{},{}] for an input of [{},{}], neither one value, nor one a row, nor blocks of {}",
              scale.rows, scale.cols, q.rows, q.cols, kGroup);
  if (out.rows != q.rows || out.cols != q.cols)
    bad_input("out is [{},{}] for an input of [{},{}]", out.rows, out.cols, q.rows, q.cols);
  if (q.rows == 0 || q.cols == 0) return;
  if (launch.device->is_cpu()) return cpu::dequantize(q, scale, out, launch.threads);
  check_gpu("q", q, launch);
  check_gpu("out", out, launch);
  cuda::dequantize(q, scale, out, launch);
}

}  // namespace samebits
