// Two e4m3 codes -> two bf16 or fp16 numbers, exactly, in ten integer instructions and a multiplication: for GPUs whose
// conversion instruction is missing (sm_80, sm_86) or takes a detour over FP32 (bf16). Host code too, so that
// widen_test.cpp sees every code. Called by mma.cuh.
#pragma once
#include <cstdint>

namespace samebits::cuda {

/// How a wider format takes the bits of e4m3: the exponent and fraction, moved up by `shift`, are the number times
/// 2^-scale_exponent, subnormals included, because the wider exponent has a larger bias.
struct WidenE4m3 {
  int shift;           ///< fraction bits of the wider format - 3
  int scale_exponent;  ///< bias of the wider format - 7
  uint32_t scale;      ///< 2^scale_exponent in the wider format, twice
};
inline constexpr WidenE4m3 kE4m3ToBf16{4, 120, 0x7b807b80};
inline constexpr WidenE4m3 kE4m3ToF16{7, 8, 0x5c005c00};

/// The two codes with their bits moved up: numbers that `scale` makes right. `codes` has the first in its low byte.
constexpr uint32_t moved_e4m3(const WidenE4m3& to, uint32_t codes) {
  const uint32_t apart = (codes | codes << 8) & 0x00ff00ff;  // a code in the low byte of each half
  return (apart & 0x00800080) << 8 | (apart & 0x007f007f) << to.shift;
}

/// All ones below the sign in the halves that are NaN (e4m3 has two: 0x7f and 0xff), which `scale` makes 480; else 0.
constexpr uint32_t nan_e4m3(const WidenE4m3& to, uint32_t moved) {
  const uint32_t step = 0x00010001u << to.shift;
  const uint32_t met = ((moved & 0x7fff7fff) + step) & (0x00800080u << to.shift);  // only 0x7f carries that far
  return (met << (8 - to.shift)) - (met >> (7 + to.shift));                        // 0x8000 - 1
}

}  // namespace samebits::cuda
