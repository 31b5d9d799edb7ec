// The CPU backend of the 16-bit Orders against the reference, bit for bit, once per SIMD target: dtypes, an e4m3
// weight, kinds of data, tails of K, strides, absent scales; and that M, its position and the thread count change
// nothing.
#include <algorithm>
#include <limits>

#include "core/check.h"
#include "cpu/gemm.h"
#include "half.h"
#include "numerics/reference.h"
#include "place.h"
#include "simd_target.h"

namespace samebits {
namespace {

using namespace samebits::testing;

constexpr Dtype kHalves[] = {Dtype::kBf16, Dtype::kF16};

HostProblem half_problem(Random& random, Order order, HalfData kind, Dtype dtype, int64_t m, int64_t n, int64_t k) {
  auto [a, b] = half_operands(random, kind, dtype, m, n, k);
  return {order, std::move(a), std::move(b), {}, {}, std::nullopt, Dtype::kF32};
}

Matrix computed(const HostProblem& p, int threads = 1) {
  Matrix out(p.out, p.a.rows, p.b.rows);
  cpu::gemm(p.on_host(out), threads);
  return out;
}

Matrix wanted(const HostProblem& p) {
  Matrix out(p.out, p.a.rows, p.b.rows);
  reference_gemm(p.on_host(out));
  return out;
}

::testing::AssertionResult same(const HostProblem& p) { return same_bits(computed(p).view(), wanted(p).view()); }

/// The codes of `from` in another dtype, which holds all of them.
Matrix widened(const Matrix& from, Dtype to) {
  Matrix wide(to, from.rows, from.cols);
  for (int64_t r = 0; r < from.rows; ++r)
    for (int64_t c = 0; c < from.cols; ++c) store(to, wide.view().at(r, c), load(from.dtype, from.view().at(r, c)));
  return wide;
}

class CpuHalfTest : public SimdTargetTest {};
SAMEBITS_PER_SIMD_TARGET(CpuHalfTest);

TEST_P(CpuHalfTest, EveryTailOfK) {
  Random random{1};
  std::vector<int64_t> ks{127, 128, 129, 255, 256, 257, 383, 1000};
  for (int64_t k = 1; k <= 50; ++k) ks.push_back(k);
  for (const OrderSpec& order : orders_of(Operands::kHalf))
    for (int64_t k : ks)
      ASSERT_TRUE(same(half_problem(random, order.order, HalfData::kWide, Dtype::kBf16, 3, 5, k)))
          << order.name << " k=" << k;
}

TEST_P(CpuHalfTest, EveryDtypeAndKindOfData) {
  Random random{2};
  for (const OrderSpec& order : orders_of(Operands::kHalf))
    for (Dtype dtype : kHalves)
      for (HalfData kind : kAllHalfData)
        for (int64_t k : {16, 150, 640})
          ASSERT_TRUE(same(half_problem(random, order.order, kind, dtype, 6, 17, k)))
              << order.name << " " << name(dtype) << " data " << static_cast<int>(kind) << " k=" << k;
}

// Sums that grow to the end of FP32 and past it, that stay below its normal numbers, and that come back from there.
TEST_P(CpuHalfTest, Extremes) {
  Random random{3};
  for (const OrderSpec& order : orders_of(Operands::kHalf))
    for (Dtype dtype : kHalves)
      for (int pattern = 0; pattern < 5; ++pattern) {
        HostProblem p = half_problem(random, order.order, HalfData::kNormal, dtype, 4, 18, 1024);
        const uint16_t largest = dtype == Dtype::kBf16 ? 0x7f7f : 0x7bff;
        const auto fill = [&](Matrix& matrix, bool is_b) {
          for (int64_t r = 0; r < matrix.rows; ++r)
            for (int64_t k = 0; k < matrix.cols; ++k) {
              uint16_t code = largest;          // 0: nothing but the largest
              if (pattern == 1) code = 0x0001;  // nothing but the smallest
              if (pattern == 2) code = k % 32 < 16 ? largest : 0x01;
              if (pattern == 3) code = is_b ? largest : 0x0001;  // the smallest against the largest
              if (pattern == 4) code = k % 2 ? 0x1f80 : 0x2080;  // bf16: sums of subnormals, exponents -64 and -62
              const bool flip = is_b && (pattern == 2 ? k / 32 % 4 == 2 : r % 2 == 1);
              matrix.as<uint16_t>()[r * matrix.row_stride + k] = static_cast<uint16_t>(flip ? code | 0x8000 : code);
            }
        };
        fill(p.a, false);
        fill(p.b, true);
        ASSERT_TRUE(same(p)) << order.name << " " << name(dtype) << " pattern " << pattern;
      }
}

// Weight-only: an e4m3 weight has the bits of that weight cast to a's dtype, which is exact.
TEST_P(CpuHalfTest, AnFp8WeightHasTheBitsOfTheWidenedOne) {
  Random random{4};
  for (const OrderSpec& order : orders_of(Operands::kHalf))
    for (Dtype dtype : kHalves)
      for (Data kind : kAllData)
        for (int64_t k : {16, 77, 300}) {
          HostProblem p = half_problem(random, order.order, HalfData::kWide, dtype, 5, 19, k);
          p.b = fp8_matrix(random, kind, 19, k);
          if (k == 77) p.b.as<uint8_t>()[3 * k + 5] = 0xff;  // NaN
          p.scale_b = random_scales(random, 19);
          const Matrix got = computed(p);
          ASSERT_TRUE(same_bits(got.view(), wanted(p).view())) << name(dtype) << " k=" << k;
          p.b = widened(p.b, dtype);
          ASSERT_TRUE(same_bits(got.view(), computed(p).view())) << name(dtype) << " k=" << k;
        }
}

TEST_P(CpuHalfTest, EveryShapeOfPanelAndRowBlock) {
  Random random{5};
  for (int64_t n : {1, 2, 3, 7, 8, 9, 15, 16, 17, 33})
    for (int64_t m : {1, 2, 3, 4, 5, 9})
      ASSERT_TRUE(same(half_problem(random, Order::kHopperBf16, HalfData::kWide, Dtype::kF16, m, n, 40)))
          << m << "x" << n;
  ASSERT_TRUE(same(half_problem(random, Order::kHopperBf16, HalfData::kWide, Dtype::kBf16, 150, 3, 40)));
}

TEST_P(CpuHalfTest, EveryScaleBiasAndOutput) {
  Random random{6};
  for (Dtype out : {Dtype::kBf16, Dtype::kF16, Dtype::kF32})
    for (int scales = 0; scales < 4; ++scales)
      for (const bool with_bias : {false, true}) {
        HostProblem p = half_problem(random, Order::kHopperBf16, HalfData::kNormal, Dtype::kBf16, 9, 21, 80);
        p.out = out;
        if (scales & 1) p.scale_a = random_scales(random, 9);
        if (scales & 2) p.scale_b = random_scales(random, 21);
        if (with_bias) p.bias = float_matrix(random, out, 1, 21, 21, false);
        ASSERT_TRUE(same(p)) << name(out) << " scales " << scales << " bias " << with_bias;
      }
}

// An absent scale is a scale of one, whatever the accumulator: also for NaN, infinity and both zeros.
TEST_P(CpuHalfTest, AnAbsentScaleIsOne) {
  Random random{7};
  for (HalfData kind : {HalfData::kSpecial, HalfData::kMostlyZero, HalfData::kTiny}) {
    HostProblem p = half_problem(random, Order::kHopperBf16, kind, Dtype::kBf16, 24, 40, 48);
    const Matrix absent = computed(p);
    p.scale_a = p.scale_b = {1.0f};
    ASSERT_TRUE(same_bits(absent.view(), computed(p).view()));
  }
}

TEST_P(CpuHalfTest, EveryStride) {
  Random random{8};
  for (Dtype dtype : kHalves)
    for (Dtype weight : {dtype, Dtype::kE4m3}) {
      HostProblem p = half_problem(random, Order::kHopperBf16, HalfData::kWide, dtype, 10, 30, 90);
      if (weight != dtype) p.b = fp8_matrix(random, Data::kAllPatterns, 30, 90);
      const Matrix want = wanted(p);
      const auto transposed = [](const Matrix& from, int64_t stride) {
        Matrix to(from.dtype, from.cols, from.rows, stride);
        for (int64_t r = 0; r < from.rows; ++r)
          for (int64_t c = 0; c < from.cols; ++c)
            std::memcpy(to.view().at(c, r), from.view().at(r, c), size_of(from.dtype));
        return to;
      };
      const Matrix a = transposed(p.a, 10), b = transposed(p.b, 64);
      Matrix out(Dtype::kF32, 30, 10, 11);
      GemmProblem columns = p.on_host(out);
      columns.a = ConstView(a.view().data, dtype, 10, 90, 1, 10);
      columns.b = ConstView(b.view().data, weight, 30, 90, 1, 64);
      columns.out = View(out.view().data, Dtype::kF32, 10, 30, 1, 11);
      cpu::gemm(columns, 1);
      ASSERT_TRUE(same_bits(columns.out, want.view())) << name(dtype) << " x " << name(weight);
    }
}

TEST_P(CpuHalfTest, ARowHasItsBitsInEveryBatchAndOnAnyThreads) {
  Random random{9};
  for (const OrderSpec& order : orders_of(Operands::kHalf)) {
    HostProblem p = half_problem(random, order.order, HalfData::kCancelling, Dtype::kBf16, 150, 70, 333);
    p.out = Dtype::kBf16;
    const Matrix all = computed(p);
    for (int threads : {0, 2, 5}) ASSERT_TRUE(same_bits(computed(p, threads).view(), all.view())) << threads;
    for (int64_t m : {1, 2, 3, 8, 64, 65})
      for (int64_t first : {int64_t{0}, (150 - m) / 2, 150 - m})
        ASSERT_TRUE(same_bits(computed(take_rows(p, first, m), 2).view(), ConstView(all.view()).slice_rows(first, m)))
            << order.name << " rows " << first << "+" << m;
  }
}

// The control: K in two halves, added in FP32, must give other bits, or the tests above compare nothing.
TEST_P(CpuHalfTest, ControlSplitKIsAnotherResult) {
  Random random{10};
  for (const OrderSpec& order : orders_of(Operands::kHalf)) {
    const HostProblem p = half_problem(random, order.order, HalfData::kNormal, Dtype::kBf16, 8, 32, 1024);
    const Matrix whole = computed(p);
    Matrix parts[2] = {whole, whole};
    for (int h = 0; h < 2; ++h) {
      GemmProblem part = p.on_host(parts[h]);
      part.a = part.a.slice_cols(512 * h, 512), part.b = part.b.slice_cols(512 * h, 512);
      cpu::gemm(part, 1);
    }
    for (int64_t i = 0; i < 8 * 32; ++i) parts[0].as<float>()[i] += parts[1].as<float>()[i];
    EXPECT_FALSE(same_bits(parts[0].view(), whole.view())) << order.name;
  }
}

// What gemm() refuses of a 16-bit Order, with the numbers.
TEST(HalfGemmTest, BadOperandsAreRefused) {
  Random random{11};
  const HostProblem good = half_problem(random, Order::kHopperBf16, HalfData::kNormal, Dtype::kBf16, 4, 8, 16);
  const auto message = [&](auto change) { return refusal(cpu_device(), good, change); };
  const float one = 1.0f;
  EXPECT_EQ(message([](GemmProblem&) {}), "accepted");
  EXPECT_EQ(message([](GemmProblem& p) { p.b.dtype = Dtype::kF16; }),
            "b is fp16 and a is bf16; for hopper-bf16 b has the dtype of a, or is e4m3");
  EXPECT_EQ(message([](GemmProblem& p) { p.b.dtype = Dtype::kE5m2; }),
            "b is e5m2 and a is bf16; for hopper-bf16 b has the dtype of a, or is e4m3");
  EXPECT_EQ(message([](GemmProblem& p) { p.a.dtype = Dtype::kF32; }), "a is fp32; hopper-bf16 takes bf16 or fp16");
  EXPECT_EQ(message([](GemmProblem& p) { p.a.dtype = p.b.dtype = Dtype::kE4m3; }),
            "a is e4m3; hopper-bf16 takes bf16 or fp16");
  EXPECT_EQ(message([](GemmProblem& p) { p.order = Order::kHopperFast; }), "a is bf16; it must be e4m3 or e5m2");
  EXPECT_EQ(message([&](GemmProblem& p) { p.scale_a = Scales::per_row(&one, 3); }),
            "scale_a: shape [3,1], it must be [1,1] or [4,1]");
}

}  // namespace
}  // namespace samebits
