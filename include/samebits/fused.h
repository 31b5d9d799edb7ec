// The kernels between two FP8 linear layers in one pass over memory: RMSNorm or SiLU * mul, then FP8 per token. The
// same bits on CPU and CUDA, those of the step alone followed by quantize_per_token. docs/contract.md has the formulas.
#pragma once
#include "samebits/gemm.h"
#include "samebits/quantize.h"
#include "samebits/types.h"

namespace samebits {

/// h = x, or cast(x + residual) with a residual; y = cast(cast(h / rms(h)) * weight), rms = sqrt(mean(h^2) + epsilon).
/// cast() rounds to the dtype of x: bf16, fp16 or fp32; everything else is FP32 in the order of the contract.
struct RmsNorm {
  ConstView x;            ///< [M,K]
  ConstView weight;       ///< [1,K], dtype of x
  float epsilon = 1e-6f;  ///< FP32
  ConstView residual;     ///< [M,K], dtype of x, or empty
  View residual_out;      ///< [M,K], receives h where there is a residual; may be `residual` or `x` itself
};

/// y [M,K] of the dtype of x. All memory on launch.device; on a GPU elements of a row are adjacent. With
/// Overlap::kWeight and kChain `weight` is fetched early, as `b` of a GEMM is. Throws Error on shapes, dtypes and
/// strides.
void rms_norm(const RmsNorm& norm, View y, const Launch& launch = {});

/// quantize_per_token of rms_norm: q [M,Kq] e4m3 with Kq >= K, columns past K zero; scale [M]; upper_bound one FP32
/// value or null.
void rms_norm_quantize(const RmsNorm& norm, View q, float* scale, const float* upper_bound, const Launch& launch = {});

/// quantize_per_group of rms_norm.
void rms_norm_quantize_per_group(const RmsNorm& norm, View q, const GroupScales& scales, const Launch& launch = {});

/// y = cast(cast(g / (1 + exp(-g))) * u), x = [g | u] [M,2K] bf16, fp16 or fp32, y [M,K] of its dtype. The exp is that
/// of the contract.
void silu_mul(ConstView x, View y, const Launch& launch = {});

/// quantize_per_token of silu_mul; q, scale and upper_bound as above.
void silu_mul_quantize(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch = {});

/// quantize_per_group of silu_mul.
void silu_mul_quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch = {});

}  // namespace samebits
