// The GPU quantizer's quotient against the division of the contract, on the host.
#include "cuda/quotient.h"

#include "bits.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

using cuda::divisor_of;
using cuda::quotient;
using testing::Random;

uint32_t e4m3(float v) { return encode(kFormatE4m3, v > 448.0f ? 448.0f : v < -448.0f ? -448.0f : v); }

// Counts the codes that differ, and the quotients between 2^-11 and 512 that are not rounded to nearest.
struct Check {
  int64_t codes = 0, quotients = 0, seen = 0;
  void operator()(float x, float scale) {
    const float want = x / scale, got = quotient(x, divisor_of(scale, 1.0f / scale));
    codes += e4m3(got) != e4m3(want);
    if (std::fabs(want) < 0x1p-11f || !(std::fabs(want) < 512.0f)) return;
    quotients += std::bit_cast<uint32_t>(got) != std::bit_cast<uint32_t>(want);
    ++seen;
  }
  void none_differ(int64_t at_least) const {
    EXPECT_EQ(codes, 0);
    EXPECT_EQ(quotients, 0);
    EXPECT_GT(seen, at_least);
  }
};

float any_scale(Random& random) {
  const uint32_t exponent = 127 - 43 + random.below(163);  // 2^-43 to 2^119
  return std::bit_cast<float>(exponent << 23 | (random.below(4) ? random.below(1 << 23) : random.below(8) << 20));
}

TEST(QuotientTest, OfEverySixteenBitPattern) {
  Random random{1};
  Check check;
  for (const Format& format : {kFormatBf16, kFormatF16})
    for (float scale :
         {kMinScale, kMinGroupAbsmax / kE4m3Max, 0.0371f, 1.0f, 3e38f / 448, std::numeric_limits<float>::infinity(),
          any_scale(random), static_cast<float>(0.001 + random.uniform())})
      for (uint32_t code = 0; code < 65536; ++code) check(decode(format, code), scale);
  check.none_differ(50000);
}

TEST(QuotientTest, OfRandomNumbers) {
  Random random{2};
  Check check;
  for (int i = 0; i < 2000000; ++i) {
    const float scale = any_scale(random);
    check(std::bit_cast<float>(static_cast<uint32_t>(random.next())), scale);
    const uint32_t near = std::bit_cast<uint32_t>(scale) + (static_cast<uint32_t>(random.below(18)) << 23);
    check(std::bit_cast<float>(near - (9u << 23) + random.below(1 << 23)), scale);
  }
  check.none_differ(1000000);
}

// Around the points where e4m3 changes its mind, significands next to few-bit numbers among them.
TEST(QuotientTest, AroundRoundingBoundaries) {
  Random random{3};
  Check check;
  for (int i = 0; i < 20000; ++i) {
    const uint32_t offset = 3 - random.below(7);
    const float scale =
        random.below(2)
            ? any_scale(random)
            : std::bit_cast<float>((110 + random.below(40)) << 23 | (((random.below(8) << 20) + offset) & 0x7fffff));
    for (uint32_t code = 0; code < 0x7e; ++code) {
      const float boundary = (decode(kFormatE4m3, code) + decode(kFormatE4m3, code + 1)) / 2;
      const uint32_t x = std::bit_cast<uint32_t>(boundary * scale);
      for (uint32_t ulp = 0; ulp < 5; ++ulp) check(std::bit_cast<float>(x - 2 + ulp), scale);
    }
  }
  check.none_differ(1000000);
}

// What the corrections are for: without them some codes are wrong.
TEST(QuotientTest, ControlTheReciprocalAloneHasOtherCodes) {
  Random random{4};
  int64_t differ = 0;
  for (int i = 0; i < 2000; ++i) {
    const float scale = static_cast<float>(0.001 + random.uniform());
    for (uint32_t code = 8; code < 0x7e; ++code) {
      const float x = (decode(kFormatE4m3, code) + decode(kFormatE4m3, code + 1)) / 2 * scale;
      differ += e4m3(x * (1.0f / scale)) != e4m3(x / scale);
    }
  }
  EXPECT_GT(differ, 100);
}

}  // namespace
}  // namespace samebits
