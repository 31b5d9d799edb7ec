// The proof under a 16-bit Order: activations in the output's dtype, the FP8 weight as it is and widened.
#include <xxhash.h>

#include "core/generator.h"
#include "core/verify_layer.h"
#include "numerics/reference.h"
#include "place.h"
#include "samebits/verify.h"

namespace samebits {
namespace {

using namespace samebits::testing;

constexpr int64_t kN = 200, kK = 2040;  // padded to multiples of 16 on a GPU

/// One layer with a bias, long enough in K for its control: a cut of K moves a 16-bit output now and then only.
struct OneLayer {
  RandomWeight weight = generate_weight(generator_key(1, "half"), kN, kK, 1);
  std::vector<float> bias = std::vector<float>(kN, 0.75f);
  VerifyLayer layer{"half", ConstView(weight.codes.data(), Dtype::kE4m3, kN, kK), weight.scale,
                    {},     ConstView(bias.data(), Dtype::kF32, 1, kN),           {}};
};

class VerifyHalfTest : public ::testing::TestWithParam<const DeviceInfo*> {
 protected:
  void SetUp() override {
    if (rows(*GetParam(), Order::kHopperBf16).empty()) GTEST_SKIP() << "no 16-bit rows for this GPU in this build";
    options_.device = GetParam();
    options_.orders = {Order::kHopperBf16};
    options_.batches = {1, 2, 17};
  }
  OneLayer one_;
  VerifyOptions options_;
};

TEST_P(VerifyHalfTest, SoundSchedulesPassAndTheControlIsCaught) {
  for (bool all : {false, true}) {
    options_.all_kernels = all;
    const VerifyReport report = verify({&one_.layer, 1}, options_);
    EXPECT_TRUE(report.passed());
    EXPECT_EQ(report.compared.differing, 0u);
    EXPECT_GT(report.control.differing, 0u);
    EXPECT_GT(report.sample.outputs, 0u);
  }
}

// From the text of docs/contract.md, one output at a time with the scalar reference: the same on every place.
TEST_P(VerifyHalfTest, DigestIsDefinedByTheContractAlone) {
  const std::vector<float> x = generate_activations(generator_key(3, "half"), kDigestRows, kK, 1);
  std::vector<uint16_t> outputs;
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
    Matrix a(dtype, kDigestRows, kK), out(dtype, kDigestRows, kN), bias(dtype, 1, kN);
    for (int64_t i = 0; i < kDigestRows * kK; ++i) store(dtype, a.as<uint16_t>() + i, x[static_cast<size_t>(i)]);
    for (int64_t i = 0; i < kN; ++i) store(dtype, bias.as<uint16_t>() + i, one_.bias[static_cast<size_t>(i)]);
    GemmProblem p;
    p.order = Order::kHopperBf16;
    p.a = a.view();
    p.b = one_.layer.weight;
    p.scale_b = Scales::per_row(one_.weight.scale.data(), kN);
    p.bias = bias.view();
    p.out = out.view();
    reference_gemm(p);
    outputs.insert(outputs.end(), out.as<uint16_t>(), out.as<uint16_t>() + kDigestRows * kN);
  }
  options_.seed = 3;
  options_.batches = {1};
  const VerifyReport report = verify({&one_.layer, 1}, options_);
  EXPECT_EQ(report.results.at(0).digest, XXH3_64bits(outputs.data(), outputs.size() * sizeof(uint16_t)));
}

// Beside FP8 Orders in one run: each has its own activations.
TEST_P(VerifyHalfTest, OrdersOfBothKindsInOneRunHaveTheDigestsThatTheyHaveAlone) {
  const uint64_t half = verify({&one_.layer, 1}, options_).results.at(0).digest;
  options_.orders = {Order::kHopperFast};
  const uint64_t fp8 = verify({&one_.layer, 1}, options_).results.at(0).digest;
  for (bool half_first : {false, true}) {
    options_.orders = {Order::kHopperFast, Order::kHopperBf16};
    if (half_first) std::swap(options_.orders[0], options_.orders[1]);
    const VerifyReport both = verify({&one_.layer, 1}, options_);
    EXPECT_TRUE(both.passed());
    EXPECT_EQ(both.results.at(half_first).digest, fp8);
    EXPECT_EQ(both.results.at(!half_first).digest, half);
  }
}

// Half of K for the largest batch: what the comparison must see.
TEST_P(VerifyHalfTest, AScheduleThatDependsOnMIsCaught) {
  options_.schedule = [](const GemmProblem& problem, const Plan& plan, const Launch& launch) {
    GemmProblem cut = problem;
    if (problem.m() == 17) cut.a = problem.a.slice_cols(0, 1024), cut.b = problem.b.slice_cols(0, 1024);
    problem.m() == 17 ? gemm(cut, launch) : gemm(problem, plan, launch);
  };
  const VerifyReport report = verify({&one_.layer, 1}, options_);
  EXPECT_FALSE(report.passed());
  ASSERT_TRUE(report.results.at(0).first);
  EXPECT_EQ(report.results.at(0).first->batch, 17);
  EXPECT_EQ(report.sample.differing, 0u);
}

INSTANTIATE_TEST_SUITE_P(On, VerifyHalfTest, ::testing::ValuesIn(places()), place_name);

}  // namespace
}  // namespace samebits
