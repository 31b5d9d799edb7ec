// numerics against first principles and against what an H100 returned.
#include <cmath>

#include "bits.h"
#include "numerics/formats.h"
#include "numerics/mma.h"
#include "numerics/reference.h"

namespace samebits {
namespace {

static_assert(decode(kFormatE4m3, 0x7e) == 448.0f && decode(kFormatE4m3, 0x01) == 0x1p-9f);
static_assert(decode(kFormatE5m2, 0x7b) == 57344.0f && decode(kFormatE5m2, 0x01) == 0x1p-16f);
static_assert(encode(kFormatF16, 65520.0f) == 0x7c00 && encode(kFormatF16, 65519.0f) == 0x7bff);
static_assert(encode(kFormatBf16, 0x1p-133f) == 0x0001 && encode(kFormatBf16, -0.0f) == 0x8000);

class FormatTest : public ::testing::TestWithParam<Dtype> {};

TEST_P(FormatTest, EveryCodeRoundTrips) {
  const Format& f = format_of(GetParam());
  const uint32_t codes = 1u << (8 * size_of(GetParam()));
  for (uint32_t code = 0; code < codes; ++code) {
    const float value = decode(f, code);
    if (std::isnan(value)) continue;
    ASSERT_EQ(encode(f, value), code) << value;
  }
}

// Halfway points and their neighbours, in double so that the test does not reuse encode's arithmetic.
TEST_P(FormatTest, RoundsToNearestEven) {
  const Format& f = format_of(GetParam());
  const uint32_t codes = 1u << (8 * size_of(GetParam()) - 1);
  for (uint32_t code = 0; code + 1 < codes; ++code) {
    const float low = decode(f, code), high = decode(f, code + 1);
    if (!std::isfinite(low) || !std::isfinite(high)) break;
    const float half = static_cast<float>((static_cast<double>(low) + high) / 2);
    if (static_cast<double>(half) != (static_cast<double>(low) + high) / 2) continue;  // bf16 subnormals
    const uint32_t even = code & 1 ? code + 1 : code;
    ASSERT_EQ(encode(f, half), even) << code;
    ASSERT_EQ(encode(f, -half), even | codes) << code;
    ASSERT_EQ(encode(f, std::nextafter(half, 0.0f)), code) << code;
    ASSERT_EQ(encode(f, std::nextafter(half, INFINITY)), code + 1) << code;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FormatTest, ::testing::Values(Dtype::kE4m3, Dtype::kE5m2, Dtype::kBf16, Dtype::kF16),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST(OrderTest, NamesParse) {
  for (const OrderSpec& s : kOrders) EXPECT_EQ(parse_order(s.name), s.order);
  EXPECT_THROW(parse_order("hopper-quick"), Error);
}

// Two products of 1 and one of 2^-14: one place too low for a step whose largest exponent is 0, so it is dropped; with
// E = -1 it is kept.
TEST(MmaStepTest, TruncatesToThirteenBitsBelowTheLargestExponent) {
  const OrderSpec& s = spec(Order::kHopperFast);
  const uint16_t one = 0x38, half = 0x30, tiny = 0x04;  // 1, 0.5, 2^-7
  const uint16_t a1[] = {one, tiny}, b1[] = {one, tiny};
  EXPECT_EQ(mma_step(s, Dtype::kE4m3, Dtype::kE4m3, a1, b1, 2, 0.0f), 1.0f);
  const uint16_t a2[] = {half, tiny}, b2[] = {one, tiny};
  EXPECT_EQ(mma_step(s, Dtype::kE4m3, Dtype::kE4m3, a2, b2, 2, 0.0f), 0.5f + 0x1p-14f);
}

TEST(MmaStepTest, ZeroSumsArePositive) {
  const OrderSpec& s = spec(Order::kHopperFast);
  const uint16_t a[] = {0x38, 0xb8}, b[] = {0x38, 0x38}, zero[] = {0x80, 0x00};
  EXPECT_FALSE(std::signbit(mma_step(s, Dtype::kE4m3, Dtype::kE4m3, a, b, 2, 0.0f)));
  EXPECT_FALSE(std::signbit(mma_step(s, Dtype::kE4m3, Dtype::kE4m3, zero, b, 2, 0.0f)));
}

}  // namespace
}  // namespace samebits
