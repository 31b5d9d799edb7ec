// FP8 quantizers with one defined value per element, the same bits on CPU and CUDA. docs/contract.md has the formulas.
#pragma once
#include <optional>

#include "samebits/gemm.h"
#include "samebits/types.h"

namespace samebits {

/// Largest finite e4m3 value, and the smallest scale the quantizers produce: 1 / (448 * 512), rounded to FP32.
inline constexpr float kE4m3Max = 448.0f;
inline constexpr float kMinScale = 1.0f / (448.0f * 512.0f);

/// Dynamic per token: scale[m] = max(min(absmax(x[m,:]), *upper_bound) / 448, 1 / (448 * 512)), q = e4m3(x / scale).
/// x [M,K] bf16, fp16 or fp32; q [M,Kq] e4m3 with Kq >= K, columns past K are written as zero (the padding of a
/// linear layer); scale [M]; upper_bound one FP32 value or null. All on launch.device.
void quantize_per_token(ConstView x, View q, float* scale, const float* upper_bound, const Launch& launch = {});

/// Static per tensor: q = e4m3(x * (1 / *scale)), the reciprocal rounded to FP32 first. Shapes as above.
void quantize_static(ConstView x, const float* scale, View q, const Launch& launch = {});

/// How many weight rows share a scale.
enum class Granularity : uint8_t { kPerTensor, kPerChannel };

/// Weights: scale = max(absmax / 448, 1 / (448 * 512)) over the tensor or the row, q = e4m3(w / scale).
/// w [N,K] bf16, fp16 or fp32; q [N,K] e4m3; scale [1] or [N]. CPU: throws what check_finite(w, what) does. CUDA:
/// the caller checks.
void quantize_weight(ConstView w, Granularity granularity, View q, float* scale, std::string_view what,
                     const Launch& launch = {});

/// An element of a matrix.
struct Coordinate {
  int64_t row = 0;
  int64_t col = 0;
};

/// The first NaN of a matrix in row order, or nothing. Host memory, any dtype and strides.
std::optional<Coordinate> find_nan(ConstView matrix);
/// The first NaN or infinity.
std::optional<Coordinate> find_non_finite(ConstView matrix);
/// Throw Error(kBadInput) "WHAT[3,5] is nan" at the first of them.
void check_no_nan(ConstView matrix, std::string_view what);
void check_finite(ConstView matrix, std::string_view what);

/// out = cast(q * scale): FP32 product, one rounding. q [N,K] e4m3 or e5m2; out bf16, fp16 or fp32.
void dequantize(ConstView q, const Scales& scale, View out, const Launch& launch = {});

}  // namespace samebits
