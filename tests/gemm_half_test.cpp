// gemm() with 16-bit operands on every backend: what gemm_test.cpp does not see, because it lets an Order choose its
// operands: fp16, an e4m3 weight, absent scales, and the data that only 16 bits can hold.
#include "half.h"
#include "place.h"

namespace samebits::testing {
namespace {

class GemmHalfTest : public ::testing::TestWithParam<const DeviceInfo*> {
 protected:
  const DeviceInfo& device() const { return *GetParam(); }

  std::vector<Order> orders() const {
    std::vector<Order> half;
    for (Order order : orders_on(device()))
      if (spec(order).operands == Operands::kHalf) half.push_back(order);
    return half;
  }

  Matrix expected(const HostProblem& p) const { return expected_on(device(), p); }

  static HostProblem problem(Random& random, Order order, HalfData kind, Dtype dtype, int64_t m, int64_t n, int64_t k) {
    auto [a, b] = half_operands(random, kind, dtype, m, n, k);
    return {order, std::move(a), std::move(b), {}, {}, std::nullopt, dtype};
  }
};

constexpr Dtype kHalves[] = {Dtype::kBf16, Dtype::kF16}, kOuts[] = {Dtype::kBf16, Dtype::kF16, Dtype::kF32};

TEST_P(GemmHalfTest, EveryRowHasTheBitsOfTheOrder) {
  struct Shape {
    int64_t m, n, k;
  };
  const std::vector<Shape> shapes =
      device().is_cpu()
          ? std::vector<Shape>{{1, 16, 32}, {5, 40, 88}}
          : std::vector<Shape>{{1, 8, 8}, {3, 48, 152}, {17, 264, 520}, {70, 1288, 256}, {300, 136, 1048}};
  Random random{1};
  for (Order order : orders())
    for (Dtype dtype : kHalves)
      for (Dtype out : kOuts)
        for (const Shape& s : shapes)
          for (HalfData kind : kAllHalfData) {
            HostProblem p = problem(random, order, kind, dtype, s.m, s.n, s.k);
            p.out = out;
            if (random.below(2)) p.bias = float_matrix(random, out, 1, s.n, s.n, false);
            if (random.below(2)) p.scale_b = random_scales(random, s.n);
            const Matrix want = expected(p);
            for (std::string_view kernel : rows(device(), order, out))
              ASSERT_TRUE(same_bits(run(device(), p, kernel).view(), want.view()))
                  << kernel << " " << name(order) << " " << name(dtype) << " m=" << s.m << " n=" << s.n << " k=" << s.k
                  << " " << name(out) << (p.bias ? " bias" : "") << " data " << static_cast<int>(kind);
          }
}

// Weight-only: every row that takes an e4m3 weight returns the bits of the weight widened beforehand.
TEST_P(GemmHalfTest, AnFp8WeightHasTheBitsOfTheWidenedOne) {
  Random random{2};
  for (Order order : orders())
    for (Dtype dtype : kHalves)
      for (std::string_view kernel : rows(device(), order, dtype, true))
        for (Data kind : kAllData)
          for (int64_t m : {1, 7, 65, 140}) {
            const int64_t n = 144, k = 272;
            HostProblem p = problem(random, order, HalfData::kNormal, dtype, m, n, k);
            p.b = fp8_matrix(random, kind, n, k);
            for (int64_t r = 0; r < n; r += 9) p.b.as<uint8_t>()[r * k + r % 7] = r % 2 ? 0x7f : 0xff;  // NaN
            p.scale_b = random_scales(random, n);
            const Matrix got = run(device(), p, kernel);
            Matrix wide(dtype, n, k);
            for (int64_t r = 0; r < n; ++r)
              for (int64_t c = 0; c < k; ++c)
                store(dtype, wide.view().at(r, c), load(Dtype::kE4m3, p.b.view().at(r, c)));
            p.b = wide;
            ASSERT_TRUE(same_bits(got.view(), expected(p).view())) << kernel << " " << name(dtype) << " m=" << m;
          }
}

// An absent scale is a scale of one, on rows of zeros, infinities and NaN too.
TEST_P(GemmHalfTest, AnAbsentScaleIsOne) {
  Random random{3};
  for (Order order : orders())
    for (HalfData kind : {HalfData::kSpecial, HalfData::kMostlyZero, HalfData::kTiny}) {
      HostProblem p = problem(random, order, kind, Dtype::kBf16, 24, 40, 48);
      const Matrix absent = run(device(), p);
      p.scale_a = p.scale_b = {1.0f};
      ASSERT_TRUE(same_bits(run(device(), p).view(), absent.view()));
      p.scale_a.assign(24, 1.0f);
      p.scale_b.assign(40, 1.0f);
      ASSERT_TRUE(same_bits(run(device(), p).view(), absent.view()));
    }
}

// The control: a scale that rounds (a third) on the weight instead of in the epilogue has other bits. What vLLM's
// fallback does, and what this project does not.
TEST_P(GemmHalfTest, ControlAScaledAndRoundedWeightIsCaught) {
  Random random{4};
  for (Order order : orders()) {
    HostProblem p = problem(random, order, HalfData::kNormal, Dtype::kBf16, 16, 48, 256);
    p.scale_b = {1.0f / 3};
    const Matrix got = run(device(), p);
    for (int64_t i = 0; i < 48 * 256; ++i) {
      void* code = p.b.as<uint16_t>() + i;
      store(Dtype::kBf16, code, load(Dtype::kBf16, code) / 3);
    }
    p.scale_b.clear();
    EXPECT_FALSE(same_bits(run(device(), p).view(), got.view()));
  }
}

INSTANTIATE_TEST_SUITE_P(On, GemmHalfTest, ::testing::ValuesIn(places()), place_name);

}  // namespace
}  // namespace samebits::testing
