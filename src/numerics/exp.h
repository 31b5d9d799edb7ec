// The exponential of SiLU, one defined value for every t: docs/contract.md, "SiLU". The CPU's lanes and the GPU's
// threads take their constants from here and are held to this function.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace samebits {

/// Arguments beyond these are moved to them: below, 1 + exp(t) is 1 whatever t is; above, exp(t) is infinite in FP32.
inline constexpr float kExpLow = -64.0f, kExpHigh = 89.0f;
/// log2(e) and ln(2) = high + low, each rounded to FP32.
inline constexpr float kLog2E = 0x1.715476p+0f, kLn2High = 0x1.62e43p-1f, kLn2Low = -0x1.05c61p-29f;
/// 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits of the sum.
inline constexpr float kExpRound = 0x1.8p23f;
/// exp(r) for |r| <= ln(2) / 2: 1 + r + c2 r^2 + ... + c6 r^6, from c6 down to c2. Fitted for the smallest largest
/// relative error, 3.1e-9.
inline constexpr float kExpCoefficients[] = {0x1.6a23d0p-10f, 0x1.123a20p-7f, 0x1.5558f2p-5f, 0x1.555492p-3f,
                                             0x1.fffffcp-2f};

/// exp(t) for a t that is not NaN; at most 0.892 ulp off.
inline float defined_exp(float t) {
  t = t < kExpLow ? kExpLow : t > kExpHigh ? kExpHigh : t;
  const float z = std::fma(t, kLog2E, kExpRound), n = z - kExpRound;
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, t));
  float p = kExpCoefficients[0];
  for (int i = 1; i < 5; ++i) p = std::fma(p, r, kExpCoefficients[i]);
  p = std::fma(std::fma(p, r, 1.0f), r, 1.0f);
  // 2^(n - 1) by its exponent field, then twice that: n = 128 has no field of its own.
  const uint32_t exponent = (std::bit_cast<uint32_t>(z) << 23) - (1u << 23);
  return 2.0f * std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent);
}

/// g / (1 + exp(-g)), the division rounded to nearest. NaN for NaN and for -infinity.
inline float defined_silu(float g) { return g / (1.0f + defined_exp(-g)); }

}  // namespace samebits
