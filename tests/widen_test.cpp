// Every pair of e4m3 codes through the integer half of the widening that mma.cuh does on a GPU; its one multiplication
// is done here in exact arithmetic.
#include "cuda/widen.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "numerics/formats.h"

namespace samebits::testing {
namespace {

struct Target {
  cuda::WidenE4m3 to;
  const Format& format;
};

class WidenTest : public ::testing::TestWithParam<Target> {};

TEST_P(WidenTest, EveryPairOfCodesIsExact) {
  const auto& [to, format] = GetParam();
  EXPECT_EQ(decode(format, to.scale & 0xffff), std::ldexp(1.0f, to.scale_exponent));
  EXPECT_EQ(to.scale >> 16, to.scale & 0xffff);
  for (uint32_t codes = 0; codes < 65536; ++codes) {
    const uint32_t moved = cuda::moved_e4m3(to, codes), nan = cuda::nan_e4m3(to, moved);
    for (int half = 0; half < 2; ++half) {
      const uint32_t code = codes >> (8 * half) & 0xff, bits = moved >> (16 * half) & 0xffff;
      const float want = decode(kFormatE4m3, code), got = decode(format, bits) * std::ldexp(1.0f, to.scale_exponent);
      if (std::isnan(want)) {
        ASSERT_EQ(nan >> (16 * half) & 0xffff, 0x7fffu) << codes;
        ASSERT_TRUE(std::isnan(decode(format, 0x7fff)));
      } else {
        ASSERT_EQ(nan >> (16 * half) & 0xffff, 0u) << codes;
        ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want)) << codes;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(To, WidenTest,
                         ::testing::Values(Target{cuda::kE4m3ToBf16, kFormatBf16},
                                           Target{cuda::kE4m3ToF16, kFormatF16}),
                         [](const auto& info) { return info.param.to.shift == 4 ? "bf16" : "fp16"; });

}  // namespace
}  // namespace samebits::testing
