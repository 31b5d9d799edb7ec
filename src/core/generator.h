// Activations and weights made of integers: the same bits on every machine, no libm. The formula is part of the
// digest's definition and stands in samebits/verify.h. Called by verify and by `samebits verify --shapes`.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "samebits/quantize.h"

namespace samebits {

/// splitmix64's output function.
constexpr uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// mix(seed + XXH3-64(name)).
uint64_t generator_key(uint64_t seed, std::string_view name);

/// z(row, col) of a matrix with `cols` columns, as four 16-bit fields summed and centred: -131070 ... 131070.
constexpr int32_t generated_integer(uint64_t key, int64_t row, int64_t col, int64_t cols) {
  const uint64_t z = mix(key + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(row * cols + col) + 1));
  return static_cast<int32_t>((z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48)) - 131070;
}

/// Activation rows [rows, cols] in FP32, with outlier channels.
std::vector<float> generate_activations(uint64_t key, int64_t rows, int64_t cols, int threads);

/// Weights of a random linear layer, quantized per channel or per block. Row n is generated_integer * 2^-21 /
/// 2^(mix(key ^ ~n) % 3): a standard deviation of about 0.02, and channels of different sizes.
struct RandomWeight {
  std::vector<uint8_t> codes;  ///< [N,K] e4m3
  std::vector<float> scale;    ///< N values, or one for each block
};
RandomWeight generate_weight(uint64_t key, int64_t n, int64_t k, int threads,
                             Granularity granularity = Granularity::kPerChannel);

}  // namespace samebits
