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

/// Columns of an activation row that share a scale, and edge of a weight block that does.
inline constexpr int64_t kGroup = 128;
/// Groups or blocks along an extent, the last one perhaps shorter.
constexpr int64_t groups_along(int64_t extent) { return (extent + kGroup - 1) / kGroup; }
/// Whether the scales of a matrix of `rows` rows are of blocks: not one value, and not one for each row.
constexpr bool of_blocks(const Scales& scale, int64_t rows) {
  return scale.cols > 1 || (scale.rows > 1 && scale.rows != rows);
}
/// Least absmax of a group, vLLM's epsilon.
inline constexpr float kMinGroupAbsmax = 1e-10f;

/// Where the scales of groups go, and how they are rounded.
struct GroupScales {
  View scale;                 ///< [M, ceil(K/128)] fp32, any strides: row-major, or M fastest
  bool power_of_two = false;  ///< rounded up to a power of two, and at least 2^-33
};

/// Dynamic per token and group of 128 columns, the last of which may be shorter:
/// scale[m,g] = max(absmax(x[m, 128 g ...]), 1e-10) / 448, q = e4m3(x / scale). x and q as above.
void quantize_per_group(ConstView x, View q, const GroupScales& scales, const Launch& launch = {});

/// How many weight elements share a scale: all, a row, or a block of 128 x 128 (shorter at the edges).
enum class Granularity : uint8_t { kPerTensor, kPerChannel, kPerBlock };

/// Scales of a weight [n,k]: 1, n, or ceil(n/128) * ceil(k/128) of them.
constexpr int64_t weight_scales(Granularity granularity, int64_t n, int64_t k) {
  switch (granularity) {
    case Granularity::kPerTensor: return 1;
    case Granularity::kPerChannel: return n;
    case Granularity::kPerBlock: return groups_along(n) * groups_along(k);
  }
  return 0;
}

/// Weights: scale = max(absmax / 448, 1 / (448 * 512)) over the tensor, the row or the block, q = e4m3(w / scale).
/// w [N,K] bf16, fp16 or fp32; q [N,K] e4m3; scale [1], [N] or [ceil(N/128), ceil(K/128)], dense. CPU: throws what
/// check_finite(w, what) does. CUDA: the caller checks.
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

/// out = cast(q * scale): FP32 product, one rounding. q [N,K] e4m3 or e5m2; out bf16, fp16 or fp32; scale of one
/// value, one a row, or one a block of 128 x 128.
void dequantize(ConstView q, const Scales& scale, View out, const Launch& launch = {});

}  // namespace samebits
