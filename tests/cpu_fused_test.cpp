// RMSNorm and SiLU * mul of the CPU against the scalar reference, once per SIMD target; the exponential against libm.
#include "cpu/fused.h"

#include <cmath>

#include "bits.h"
#include "cpu/quantize.h"
#include "numerics/exp.h"
#include "numerics/fused.h"
#include "samebits/quantize.h"
#include "simd_target.h"

namespace samebits {
namespace {

using testing::float_matrix;
using testing::Matrix;
using testing::Random;
using testing::same_bits;

constexpr Dtype kFloats[] = {Dtype::kBf16, Dtype::kF16, Dtype::kF32};
constexpr int64_t kCols[] = {1, 2, 3, 7, 8, 15, 17, 31, 33, 64, 100, 127, 129, 1000, 1024, 1025, 4099};

class CpuFusedTest : public testing::SimdTargetTest {};
SAMEBITS_PER_SIMD_TARGET(CpuFusedTest);

// q and scales of a producer against quantize_per_token of its unfused output.
template <class Produce>
void check_quantized(const Matrix& y, const Produce& produce) {
  const float bound = 1.5f;
  for (const float* upper_bound : {static_cast<const float*>(nullptr), &bound}) {
    Matrix want(Dtype::kE4m3, y.rows, y.cols + 5), got = want;
    std::vector<float> want_scale(static_cast<size_t>(y.rows)), got_scale(static_cast<size_t>(y.rows));
    cpu::quantize_per_token(y.view(), want.view(), want_scale.data(), upper_bound, 1);
    produce(got.view(), got_scale.data(), upper_bound);
    EXPECT_TRUE(same_bits(got.view(), want.view())) << name(y.dtype) << " " << y.cols;
    EXPECT_EQ(std::memcmp(got_scale.data(), want_scale.data(), got_scale.size() * sizeof(float)), 0);
  }
}

TEST_P(CpuFusedTest, RmsNormHasTheBitsOfTheReference) {
  Random random{1};
  for (Dtype dtype : kFloats)
    for (int64_t cols : kCols)
      for (bool all_patterns : {false, true})
        for (bool add : {false, true}) {
          const int64_t rows = 5;
          const Matrix x = float_matrix(random, dtype, rows, cols, cols + 3, all_patterns);
          const Matrix weight = float_matrix(random, dtype, 1, cols, cols, false);
          const Matrix residual = float_matrix(random, dtype, rows, cols, cols + 1, all_patterns);
          Matrix want_h = residual, got_h = residual, want(dtype, rows, cols), got(dtype, rows, cols);
          const auto norm = [&](Matrix& h) {
            return add ? RmsNorm{x.view(), weight.view(), 1e-5f, h.view(), h.view()}
                       : RmsNorm{x.view(), weight.view(), 1e-5f, {}, {}};
          };
          reference_rms_norm(norm(want_h), want.view());
          cpu::rms_norm(norm(got_h), got.view(), 2);
          ASSERT_TRUE(same_bits(got.view(), want.view())) << name(dtype) << " " << cols << " add " << add;
          ASSERT_TRUE(same_bits(got_h.view(), want_h.view())) << name(dtype) << " " << cols;
          check_quantized(got, [&](View q, float* scale, const float* upper_bound) {
            Matrix h = residual;
            cpu::rms_norm_quantize(norm(h), q, scale, upper_bound, 1);
          });
        }
}

TEST_P(CpuFusedTest, SiluMulHasTheBitsOfTheReference) {
  Random random{2};
  for (Dtype dtype : kFloats)
    for (int64_t cols : kCols)
      for (bool all_patterns : {false, true}) {
        const Matrix x = float_matrix(random, dtype, 5, 2 * cols, 2 * cols + 3, all_patterns);
        Matrix want(dtype, 5, cols), got(dtype, 5, cols);
        reference_silu_mul(x.view(), want.view());
        cpu::silu_mul(x.view(), got.view(), 2);
        ASSERT_TRUE(same_bits(got.view(), want.view())) << name(dtype) << " " << cols;
        check_quantized(got, [&](View q, float* scale, const float* upper_bound) {
          cpu::silu_mul_quantize(x.view(), q, scale, upper_bound, 1);
        });
      }
}

// Every gate of 16 bits, and FP32 gates over all exponents: up = 1 shows the bits of the SiLU.
TEST_P(CpuFusedTest, SiluOfEveryGate) {
  constexpr int64_t kGates = 65536;
  for (Dtype dtype : kFloats) {
    Matrix x(dtype, 1, 2 * kGates), want(dtype, 1, kGates), got(dtype, 1, kGates);
    for (int64_t i = 0; i < kGates; ++i) {
      const uint32_t bits = static_cast<uint32_t>(dtype == Dtype::kF32 ? i * 65537 : i);
      std::memcpy(x.view().at(0, i), &bits, size_of(dtype));
      store(dtype, x.view().at(0, kGates + i), 1.0f);
    }
    reference_silu_mul(x.view(), want.view());
    cpu::silu_mul(x.view(), got.view(), 1);
    EXPECT_TRUE(same_bits(got.view(), want.view())) << name(dtype);
  }
}

TEST_P(CpuFusedTest, AnyStrides) {
  Random random{3};
  for (Dtype dtype : kFloats) {
    const Matrix x = float_matrix(random, dtype, 40, 34, 34, false);
    const ConstView by_column(x.view().data, dtype, 34, 40, 1, 34);
    Matrix want(dtype, 34, 20), dense(dtype, 20, 34);
    reference_silu_mul(by_column, want.view());
    const View strided(dense.view().data, dtype, 34, 20, 1, 34);
    cpu::silu_mul(by_column, strided, 1);
    EXPECT_TRUE(same_bits(strided, want.view())) << name(dtype);

    const Matrix weight = float_matrix(random, dtype, 40, 2, 2, false);
    const RmsNorm norm{by_column, ConstView(weight.view().data, dtype, 1, 40, 0, 2), 1e-6f, {}, {}};
    Matrix want_norm(dtype, 34, 40), got_norm(dtype, 40, 34);
    reference_rms_norm(norm, want_norm.view());
    const View columns(got_norm.view().data, dtype, 34, 40, 1, 34);
    cpu::rms_norm(norm, columns, 1);
    EXPECT_TRUE(same_bits(columns, want_norm.view())) << name(dtype);
  }
}

TEST_P(CpuFusedTest, RowsWithoutElements) {
  const float one = 1.0f;
  const ConstView x(&one, Dtype::kF32, 1, 0);
  for (bool norm : {false, true}) {
    float scale = -1.0f;
    uint8_t padding[4] = {9, 9, 9, 9};
    const View q(padding, Dtype::kE4m3, 1, 4);
    if (norm)
      cpu::rms_norm_quantize({x, x, 1e-6f, {}, {}}, q, &scale, nullptr, 1);
    else
      cpu::silu_mul_quantize(x, q, &scale, nullptr, 1);
    EXPECT_EQ(scale, kMinScale);
    EXPECT_EQ(padding[0] | padding[3], 0);
  }
}

// The order of the sum is part of the bits: element after element gives other sums, and other norms.
TEST(FusedReferenceTest, ControlAnotherOrderOfTheSumHasOtherBits) {
  Random random{4};
  int differ = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const Matrix x = float_matrix(random, Dtype::kF32, 1, 2048, 2048, false);
    const float* h = static_cast<const float*>(x.view().data);
    float one_by_one = 0.0f;
    for (int i = 0; i < 2048; ++i) one_by_one += h[i] * h[i];
    const float tree = reference_sum_of_squares(h, 2048);
    EXPECT_NEAR(tree, one_by_one, 1e-4 * tree);
    differ += inverse_rms(tree, 2048, 1e-6f) != inverse_rms(one_by_one, 2048, 1e-6f);
  }
  EXPECT_GT(differ, 5);
}

// A tree of adjacent pairs does not depend on where a row is cut, so long as the cuts are at powers of two.
TEST(FusedReferenceTest, TheSumOfPartsIsTheSum) {
  Random random{5};
  const Matrix x = float_matrix(random, Dtype::kF32, 1, 1000, 1000, false);
  const float* h = static_cast<const float*>(x.view().data);
  const auto sum = [&](int64_t first, int64_t last) {
    return reference_sum_of_squares(h + first, std::min<int64_t>(last, 1000) - first);
  };
  EXPECT_EQ(sum(0, 1000), (sum(0, 256) + sum(256, 512)) + (sum(512, 768) + sum(768, 1024)));
  const float squares[] = {3, 4, 12};
  EXPECT_EQ(reference_sum_of_squares(squares, 3), 169.0f);
}

TEST(FusedReferenceTest, TheExponentialIsOneAndItsErrorIsWhatTheContractSays) {
  double worst = 0;
  for (uint64_t bits = 0; bits < 1ull << 32; bits += 65521) {
    const float t = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!(t >= kExpLow && t <= 88.7f)) continue;
    const double want = std::exp(static_cast<double>(t));
    worst = std::max(worst, std::fabs(defined_exp(t) - want) / std::ldexp(1.0, std::ilogb(want) - 23));
  }
  EXPECT_LT(worst, 0.9);
  EXPECT_GT(worst, 0.5);
  EXPECT_EQ(defined_exp(0.0f), 1.0f);
  EXPECT_EQ(1.0f + defined_exp(-1e30f), 1.0f);
  EXPECT_EQ(1.0f + defined_exp(kExpLow), 1.0f);
  EXPECT_TRUE(std::isinf(defined_exp(kExpHigh)) && std::isinf(defined_exp(1e30f)));
}

TEST(FusedReferenceTest, SiluAtTheEnds) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(defined_silu(kInf), kInf);
  EXPECT_TRUE(std::isnan(defined_silu(-kInf)));
  EXPECT_TRUE(std::isnan(defined_silu(std::nanf(""))));
  EXPECT_TRUE(defined_silu(-100.0f) == 0.0f && std::signbit(defined_silu(-100.0f)));
  EXPECT_TRUE(std::signbit(defined_silu(-0.0f)) && !std::signbit(defined_silu(0.0f)));
  EXPECT_EQ(defined_silu(30.0f), 30.0f);
}

}  // namespace
}  // namespace samebits
