// The CPU backend against the reference, bit for bit, once per SIMD target: every FP8 Order, dtype, kind of data, tail
// of K, stride, scale and bias, NaN and infinity; and that M, its position and the thread count change nothing.
#include "cpu/gemm.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "bits.h"
#include "numerics/formats.h"
#include "numerics/reference.h"
#include "simd_target.h"

namespace samebits {
namespace {

using testing::Data;
using testing::fp8_matrix;
using testing::kAllData;
using testing::Matrix;
using testing::orders_of;
using testing::Random;
using testing::random_scales;
using testing::same_bits;

constexpr Dtype kFp8[] = {Dtype::kE4m3, Dtype::kE5m2};
constexpr Dtype kFloats[] = {Dtype::kBf16, Dtype::kF16, Dtype::kF32};

// A problem that owns its operands. Options are set on `problem`; run() and want() return the output bits.
struct Case {
  Matrix a, b;
  std::vector<float> scale_a, scale_b;
  std::optional<Matrix> bias;
  GemmProblem problem;

  Case(Random& random, Order order, int64_t m, int64_t n, int64_t k, Data kind = Data::kNormal,
       Dtype a_dtype = Dtype::kE4m3, Dtype b_dtype = Dtype::kE4m3)
      : a(fp8_matrix(random, kind, m, k, a_dtype)),
        b(fp8_matrix(random, kind, n, k, b_dtype)),
        scale_a(random_scales(random, testing::scales_of_a(order, m, k))),
        scale_b(random_scales(random, testing::scales_of_b(order, n, k))) {
    problem.order = order;
    problem.a = a.view();
    problem.b = b.view();
    problem.scale_a = testing::view_of(order, scale_a, k);
    problem.scale_b = testing::view_of(order, scale_b, k);
    problem.out.dtype = Dtype::kF32;
  }

  void add_bias(Random& random, Dtype dtype) {
    bias.emplace(dtype, 1, problem.n());
    for (int64_t n = 0; n < problem.n(); ++n)
      store(dtype, bias->view().at(0, n), static_cast<float>(random.uniform() * 4 - 2));
    problem.bias = bias->view();
  }

  Matrix run(int threads = 1) const {
    Matrix out(problem.out.dtype, problem.m(), problem.n());
    GemmProblem p = problem;
    p.out = out.view();
    cpu::gemm(p, threads);
    return out;
  }

  Matrix want() const {
    Matrix out(problem.out.dtype, problem.m(), problem.n());
    GemmProblem p = problem;
    p.out = out.view();
    reference_gemm(p);
    return out;
  }

  ::testing::AssertionResult same() const { return same_bits(run().view(), want().view()); }
};

class CpuGemmTest : public testing::SimdTargetTest {};
SAMEBITS_PER_SIMD_TARGET(CpuGemmTest);

TEST(CpuGemmTargets, APortableOneIsAmongThem) {
  const std::vector<int64_t> targets = testing::simd_targets();
  EXPECT_TRUE(std::count(targets.begin(), targets.end(), HWY_SCALAR) +
              std::count(targets.begin(), targets.end(), HWY_EMU128));
}

TEST_P(CpuGemmTest, EveryTailOfK) {
  Random random{1};
  std::vector<int64_t> ks{127, 128, 129, 255, 256, 257, 383, 512, 1000, 1920};
  for (int64_t k = 1; k <= 70; ++k) ks.push_back(k);
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    for (int64_t k : ks) ASSERT_TRUE(Case(random, order.order, 3, 5, k).same()) << order.name << " k=" << k;
}

TEST_P(CpuGemmTest, EveryDtypeAndKindOfData) {
  Random random{2};
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    for (Dtype a : kFp8)
      for (Dtype b : kFp8)
        for (Data kind : kAllData)
          for (int64_t k : {32, 150, 640})
            ASSERT_TRUE(Case(random, order.order, 5, 17, k, kind, a, b).same())
                << order.name << " " << name(a) << " x " << name(b) << " data " << static_cast<int>(kind) << " k=" << k;
}

// The widest range of exponents: products from the smallest to the largest, sums that only grow, sums that cancel.
TEST_P(CpuGemmTest, Extremes) {
  Random random{3};
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    for (Dtype dtype : kFp8) {
      const uint8_t largest = dtype == Dtype::kE4m3 ? 0x7e : 0x7b;
      for (int pattern = 0; pattern < 5; ++pattern) {
        Case c(random, order.order, 4, 18, 4096, Data::kNormal, dtype, dtype);
        const auto fill = [&](Matrix& matrix, bool negate) {
          for (int64_t r = 0; r < matrix.rows; ++r)
            for (int64_t k = 0; k < matrix.cols; ++k) {
              uint8_t code = largest;                                          // 0: nothing but the largest
              if (pattern == 1) code = 0x01;                                   // nothing but the smallest
              if (pattern == 2) code = k < 64 ? 0x01 : k < 128 ? largest : 0;  // tiny, huge, then zeros
              if (pattern == 3) code = k % 2 ? largest : 0x01;
              if (pattern == 4) code = k % 64 < 32 ? largest : 0x01;
              const bool flip = negate && (pattern == 4 ? k / 32 % 4 == 2 : r % 2 == 1);
              matrix.as<uint8_t>()[r * matrix.row_stride + k] = flip ? code | 0x80 : code;
            }
        };
        fill(c.a, false);
        fill(c.b, true);
        ASSERT_TRUE(c.same()) << order.name << " " << name(dtype) << " pattern " << pattern;
      }
    }
}

TEST_P(CpuGemmTest, EveryShapeOfPanelAndRowBlock) {
  Random random{4};
  for (int64_t n : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 50})
    for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 9, 11})
      ASSERT_TRUE(Case(random, Order::kHopperFast, m, n, 77).same()) << m << "x" << n;
  // More rows than one packed block.
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    ASSERT_TRUE(Case(random, order.order, 515, 3, 40).same()) << order.name;
}

TEST_P(CpuGemmTest, ZerosArePositiveAndKeepTheirSignThroughScales) {
  Random random{5};
  for (const OrderSpec& order : orders_of(Operands::kFp8)) {
    Case c(random, order.order, 4, 20, 96, Data::kMostlyZero);
    for (std::byte& code : c.a.bytes) code &= std::byte{0x80};  // zeros of both signs
    c.scale_b[c.scale_b.size() - 1] = -1.0f;
    ASSERT_TRUE(c.same()) << order.name;
    c.add_bias(random, Dtype::kBf16);
    std::fill(c.bias->bytes.begin(), c.bias->bytes.end(), std::byte{0});
    ASSERT_TRUE(c.same()) << order.name;
  }
}

TEST_P(CpuGemmTest, EveryBiasAndOutput) {
  Random random{6};
  for (Dtype out : kFloats) {
    Case c(random, Order::kHopperFast, 9, 37, 200);
    c.problem.out.dtype = out;
    ASSERT_TRUE(c.same()) << name(out);
    for (Dtype bias : kFloats) {
      c.add_bias(random, bias);
      ASSERT_TRUE(c.same()) << name(out) << " bias " << name(bias);
    }
  }
}

// Scales that make the epilogue meet subnormals, overflow, NaN and both zeros in every output dtype.
TEST_P(CpuGemmTest, ExtremeScales) {
  Random random{7};
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float values[] = {0.0f,     -0.0f,     inf,       -inf,  nan,     -nan,           1e-45f,
                          -1e-40f,  0x1p-126f, 0x1p-149f, 1.0f,  -1.0f,   3e38f,          0x1p-30f,
                          0x1p-24f, 0x1p-14f,  0x1p10f,   1e30f, -3e-20f, 0x1.fffffep-15f};
  const int64_t count = static_cast<int64_t>(std::size(values));
  for (Dtype out : kFloats)
    for (const bool bias : {false, true}) {
      Case c(random, Order::kHopperPromoted, count, count, 160, Data::kAllPatterns);
      c.scale_a.assign(values, values + count);
      c.scale_b.assign(values, values + count);
      c.problem.out.dtype = out;
      if (bias) c.add_bias(random, Dtype::kF32);
      if (bias) store(Dtype::kF32, c.bias->view().at(0, 5), nan), store(Dtype::kF32, c.bias->view().at(0, 6), -inf);
      ASSERT_TRUE(c.same()) << name(out) << " bias " << bias;
    }
}

// scale_b * t + bias in one rounding: data on which two roundings give other bits.
TEST_P(CpuGemmTest, BiasIsFused) {
  Random random{8};
  Case c(random, Order::kHopperFast, 16, 64, 64);
  c.add_bias(random, Dtype::kF32);
  ASSERT_TRUE(c.same());
  Matrix unfused(Dtype::kF32, 16, 64);
  for (int64_t m = 0; m < 16; ++m)
    for (int64_t n = 0; n < 64; ++n) {
      const float t = c.scale_a[static_cast<size_t>(m)] *
                      reference_accumulate(spec(Order::kHopperFast), c.a.view(), m, c.b.view(), n);
      const volatile float product = c.scale_b[static_cast<size_t>(n)] * t;
      unfused.as<float>()[m * 64 + n] = product + c.bias->as<float>()[n];
    }
  EXPECT_FALSE(same_bits(c.run().view(), unfused.view())) << "the control found no difference";
}

TEST_P(CpuGemmTest, NanAndInfinityTouchOnlyTheirOwnElements) {
  Random random{9};
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    for (Dtype a : kFp8)
      for (Dtype b : kFp8) {
        Case c(random, order.order, 9, 35, 140, Data::kNormal, a, b);
        const Matrix clean = c.run();
        const auto put = [](Matrix& m, int64_t row, int64_t k, uint8_t e4m3, uint8_t e5m2) {
          m.as<uint8_t>()[row * m.row_stride + k] = m.dtype == Dtype::kE4m3 ? e4m3 : e5m2;
        };
        put(c.a, 2, 77, 0x7f, 0x7c);    // NaN, +infinity
        put(c.a, 5, 139, 0xff, 0xfd);   // NaN, NaN
        put(c.b, 3, 0, 0x7f, 0xfc);     // NaN, -infinity
        put(c.b, 20, 77, 0x00, 0x00);   // infinity * 0
        put(c.b, 34, 128, 0xff, 0x7c);  // the last channel
        ASSERT_TRUE(c.same()) << order.name << " " << name(a) << " x " << name(b);
        const Matrix got = c.run();
        for (int64_t m = 0; m < 9; ++m)
          for (int64_t n = 0; n < 35; ++n) {
            if (m == 2 || m == 5 || n == 3 || n == 20 || n == 34) continue;
            ASSERT_EQ(testing::bits_at(got.view(), m, n), testing::bits_at(clean.view(), m, n)) << m << "," << n;
          }
      }
}

TEST_P(CpuGemmTest, EveryStride) {
  Random random{10};
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    for (Dtype dtype : kFloats) {
      Case c(random, order.order, 10, 30, 90);
      c.problem.out.dtype = dtype;
      const Matrix want = c.want();

      // a and b by columns, out by columns, scales and bias with gaps.
      Matrix a(Dtype::kE4m3, 90, 10), b(Dtype::kE4m3, 90, 30, 64);
      for (int64_t k = 0; k < 90; ++k) {
        for (int64_t m = 0; m < 10; ++m) std::memcpy(a.view().at(k, m), c.a.view().at(m, k), 1);
        for (int64_t n = 0; n < 30; ++n) std::memcpy(b.view().at(k, n), c.b.view().at(n, k), 1);
      }
      std::vector<float> scale_a(20, -7.0f), scale_b(90, -7.0f);
      for (size_t m = 0; m < 10; ++m) scale_a[2 * m] = c.scale_a[m];
      for (size_t n = 0; n < c.scale_b.size(); ++n) scale_b[3 * n] = c.scale_b[n];
      Matrix out(dtype, 30, 10, 11);
      GemmProblem p = c.problem;
      p.a = ConstView(a.view().data, Dtype::kE4m3, 10, 90, 1, 10);
      p.b = ConstView(b.view().data, Dtype::kE4m3, 30, 90, 1, 64);
      p.scale_a = Scales::per_row(scale_a.data(), 10, 2);
      p.scale_b = Scales::per_row(scale_b.data(), static_cast<int64_t>(c.scale_b.size()), 3);
      p.out = View(out.view().data, dtype, 10, 30, 1, 11);
      cpu::gemm(p, 1);
      ASSERT_TRUE(same_bits(p.out, want.view())) << order.name << " " << name(dtype);
      for (int64_t n = 0; n < 30; ++n)  // what lies between the columns of out stays as it was
        for (size_t i = 0; i < size_of(dtype); ++i)
          ASSERT_EQ(static_cast<std::byte*>(out.view().data)[(n * 11 + 10) * size_of(dtype) + i], std::byte{0xa5});
    }
}

TEST_P(CpuGemmTest, ScalesAndBiasOfOneValue) {
  Random random{11};
  Case c(random, Order::kAdaPromoted, 6, 21, 260);
  c.problem.scale_a = Scales::per_tensor(c.scale_a.data());
  c.problem.scale_b = Scales::per_tensor(c.scale_b.data());
  ASSERT_TRUE(c.same());
  const float one_bias = 0.625f;
  c.problem.bias = ConstView(&one_bias, Dtype::kF32, 1, 21, 0, 0);
  ASSERT_TRUE(c.same());
}

TEST_P(CpuGemmTest, EmptyOutputs) {
  Random random{12};
  for (auto [m, n] : {std::pair{0, 5}, std::pair{5, 0}, std::pair{0, 0}})
    Case(random, Order::kHopperFast, m, n, 64).run();
}

TEST_P(CpuGemmTest, ARowHasItsBitsInEveryBatchAndOnAnyThreads) {
  Random random{13};
  for (const OrderSpec& order : orders_of(Operands::kFp8)) {
    Case c(random, order.order, 300, 70, 333);
    c.problem.out.dtype = Dtype::kBf16;
    const Matrix all = c.run(1);
    for (int threads : {0, 2, 3, 7}) ASSERT_TRUE(same_bits(c.run(threads).view(), all.view())) << threads << " threads";
    for (int64_t m : {1, 2, 3, 5, 8, 17, 64, 256, 257})
      for (int64_t first : {int64_t{0}, (300 - m) / 2, 300 - m}) {
        Matrix part(Dtype::kBf16, m, 70);
        GemmProblem p = c.problem;
        p.a = c.a.view().slice_rows(first, m);
        p.scale_a = c.problem.scale_a.slice_rows(first, m);
        p.out = part.view();
        cpu::gemm(p, 2);
        ASSERT_TRUE(same_bits(part.view(), ConstView(all.view()).slice_rows(first, m)))
            << order.name << " rows " << first << "+" << m;
      }
  }
}

// The control: K in two halves, added in FP32, must give other bits, or the tests above compare nothing.
TEST_P(CpuGemmTest, ControlSplitKIsAnotherResult) {
  Random random{14};
  const float one = 1.0f;
  for (const OrderSpec& order : orders_of(Operands::kFp8)) {
    // All exponents: of a narrower range, sums in 25 bits are exact whatever their order.
    Case c(random, order.order, 8, 32, 1024, Data::kAllPatterns);
    c.problem.scale_a = c.problem.scale_b = Scales::per_tensor(&one);
    const Matrix whole = c.run();
    Case first = c, second = c;
    first.problem.a = c.a.view().slice_cols(0, 448), first.problem.b = c.b.view().slice_cols(0, 448);
    second.problem.a = c.a.view().slice_cols(448, 576), second.problem.b = c.b.view().slice_cols(448, 576);
    Matrix sum = first.run();
    Matrix rest = second.run();
    for (int64_t i = 0; i < 8 * 32; ++i) sum.as<float>()[i] += rest.as<float>()[i];
    EXPECT_FALSE(same_bits(sum.view(), whole.view())) << order.name;
  }
}

// Every target gives the bits of every other one: they all equal the reference, and here they meet on a larger problem.
TEST_P(CpuGemmTest, ALargerProblemAgainstSampledReference) {
  Random random{15};
  for (const OrderSpec& order : orders_of(Operands::kFp8)) {
    Case c(random, order.order, 33, 131, 1500, Data::kAllPatterns);
    c.problem.out.dtype = Dtype::kBf16;
    const Matrix got = c.run(2);
    for (int64_t row : {0, 7, 32}) {
      GemmProblem p = c.problem;
      p.a = c.a.view().slice_rows(row, 1);
      p.scale_a = c.problem.scale_a.slice_rows(row, 1);
      Matrix want(Dtype::kBf16, 1, 131);
      p.out = want.view();
      reference_gemm(p);
      ASSERT_TRUE(same_bits(ConstView(got.view()).slice_rows(row, 1), want.view())) << order.name << " row " << row;
    }
  }
}

}  // namespace
}  // namespace samebits
