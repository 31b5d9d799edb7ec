// Orders with block scales on the CPU: the backend against the reference, bit for bit, once per SIMD target, over tails
// of K and N, strides of the scales and their edges; and vLLM's block shapes.
#include <algorithm>
#include <cmath>

#include "numerics/reference.h"
#include "place.h"
#include "simd_target.h"

namespace samebits::testing {
namespace {

constexpr Order kBlock = Order::kHopperBlock128;

Matrix on_cpu(const HostProblem& p) { return run(cpu_device(), p); }

Matrix by_reference(const HostProblem& p) {
  Matrix want(p.out, p.a.rows, p.b.rows);
  reference_gemm(p.on_host(want));
  return want;
}

class BlockTest : public SimdTargetTest {};
SAMEBITS_PER_SIMD_TARGET(BlockTest);

TEST_P(BlockTest, EveryTailOfKAndN) {
  Random random{1};
  for (int64_t k : {1, 16, 31, 127, 128, 129, 160, 255, 256, 257, 272, 384, 496, 640, 1000})
    for (int64_t n : {1, 15, 127, 128, 129, 144, 257}) {
      const HostProblem p = random_problem(random, kBlock, Data::kAllPatterns, 3, n, k, Dtype::kF32, k % 2);
      ASSERT_TRUE(same_bits(on_cpu(p).view(), by_reference(p).view())) << "n=" << n << " k=" << k;
    }
}

TEST_P(BlockTest, EveryKindOfDataAndOutput) {
  Random random{2};
  for (Data kind : kAllData)
    for (Dtype out : {Dtype::kBf16, Dtype::kF16, Dtype::kF32})
      for (bool with_bias : {false, true}) {
        const HostProblem p = random_problem(random, kBlock, kind, 9, 150, 400, out, with_bias);
        ASSERT_TRUE(same_bits(on_cpu(p).view(), by_reference(p).view()))
            << static_cast<int>(kind) << " " << name(out) << " bias " << with_bias;
      }
}

// Products of scales that overflow, vanish or are NaN, on chains that are zero, NaN or huge.
TEST_P(BlockTest, EdgesOfScales) {
  Random random{3};
  for (Dtype out : {Dtype::kBf16, Dtype::kF16, Dtype::kF32})
    for (bool with_bias : {false, true}) {
      const HostProblem p = edge_problem(random, kBlock, 40, 300, 400, out, with_bias);
      ASSERT_TRUE(same_bits(on_cpu(p).view(), by_reference(p).view())) << name(out) << " bias " << with_bias;
    }
}

// An infinite scale meets a chain of zero only where there is one: K of whole blocks must not add an empty chain.
TEST_P(BlockTest, NothingIsAddedPastTheLastBlock) {
  Random random{4};
  HostProblem p = random_problem(random, kBlock, Data::kNormal, 4, 128, 256, Dtype::kF32);
  std::fill(p.scale_a.begin(), p.scale_a.end(), 3e38f);
  std::fill(p.scale_b.begin(), p.scale_b.end(), 3e38f);
  Matrix got = on_cpu(p);
  ASSERT_TRUE(same_bits(got.view(), by_reference(p).view()));
  int64_t infinite = 0;
  for (int64_t i = 0; i < 4 * 128; ++i) infinite += std::isinf(got.as<float>()[i]);
  EXPECT_GT(infinite, 0);
}

// Scales by rows, by columns (M fastest) and with gaps are the same scales.
TEST_P(BlockTest, StridesOfScales) {
  Random random{5};
  const int64_t m = 21, n = 260, k = 400, blocks = 4, channels = 3;
  const HostProblem p = random_problem(random, kBlock, Data::kNormal, m, n, k);
  const Matrix want = on_cpu(p);
  std::vector<float> by_token(static_cast<size_t>(m * blocks)), gaps(static_cast<size_t>(channels * 16), NAN);
  for (int64_t r = 0; r < m; ++r)
    for (int64_t b = 0; b < blocks; ++b)
      by_token[static_cast<size_t>(b * m + r)] = p.scale_a[static_cast<size_t>(r * blocks + b)];
  for (int64_t r = 0; r < channels; ++r)
    for (int64_t b = 0; b < blocks; ++b)
      gaps[static_cast<size_t>(r * 16 + 3 * b)] = p.scale_b[static_cast<size_t>(r * blocks + b)];
  Matrix got(p.out, m, n);
  GemmProblem strided = p.on_host(got);
  strided.scale_a = {by_token.data(), m, blocks, 1, m};
  strided.scale_b = {gaps.data(), channels, blocks, 16, 3};
  gemm(strided);
  EXPECT_TRUE(same_bits(got.view(), want.view()));
}

struct Shape {
  int64_t m, n, k;
};

// vLLM's test_block_fp8.py: M x N x K, and 32 x 576 x 7168.
std::vector<Shape> vllm_shapes() {
  std::vector<Shape> shapes = {{32, 576, 7168}};
  for (int64_t m : {1, 7, 8, 83, 4096})
    for (int64_t n : {128, 512, 576, 7168, 13824})
      for (int64_t k : {256, 3884, 4096, 13824, 16384}) shapes.push_back({m, n, k});
  return shapes;
}

// As many of them as a CPU does in a minute, against the reference by sample.
TEST(BlockShapes, Vllm) {
  Random random{6};
  std::vector<Shape> shapes = vllm_shapes();
  std::erase_if(shapes, [](const Shape& s) { return s.m * s.n * s.k > int64_t{1} << 29; });
  ASSERT_GE(shapes.size(), 50u);
  for (const Shape& s : shapes) {
    const HostProblem p = random_problem(random, kBlock, Data::kNormal, s.m, s.n, s.k);
    const Matrix got = on_cpu(p);
    for (int i = 0; i < 40; ++i) {
      const int64_t row = random.below(static_cast<uint32_t>(s.m)), col = random.below(static_cast<uint32_t>(s.n));
      Matrix host(p.out, s.m, s.n), want(p.out, 1, 1);
      const float acc = reference_accumulate_blocks(p.on_host(host), row, col);
      store(p.out, want.view().at(0, 0), acc);
      ASSERT_EQ(bits_at(got.view(), row, col), bits_at(want.view(), 0, 0))
          << s.m << "x" << s.n << "x" << s.k << " [" << row << "," << col << "]";
    }
  }
}

class BlockGpuTest : public ::testing::TestWithParam<const DeviceInfo*> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockGpuTest);
INSTANTIATE_TEST_SUITE_P(On, BlockGpuTest, ::testing::ValuesIn(gpus()), place_name);

// All of them with the row that choose() picks, as views of the largest, against rows alone on the CPU. K = 3884 is
// 3888 here: no row takes it, and the linear layer pads it.
TEST_P(BlockGpuTest, VllmShapes) {
  Random random{9};
  const Shape most{4096, 13824, 16384};
  const HostProblem all = random_problem(random, kBlock, Data::kNormal, most.m, most.n, most.k);
  OnDevice on_device(*GetParam(), all);
  for (const Shape& s : vllm_shapes()) {
    const int64_t k = (s.k + 15) / 16 * 16, blocks = (k + 127) / 128;
    const auto part = [&](GemmProblem p, int64_t first, int64_t rows) {
      p.a = p.a.slice_rows(first, rows).slice_cols(0, k);
      p.b = p.b.slice_rows(0, s.n).slice_cols(0, k);
      p.scale_a = p.scale_a.slice_rows(first, rows);
      p.scale_b = p.scale_b.slice_rows(0, (s.n + 127) / 128);
      p.scale_a.cols = p.scale_b.cols = blocks;
      return p;
    };
    GemmProblem p = part(on_device.problem(), 0, s.m);
    p.out = View(p.out.data, all.out, s.m, s.n, most.n);
    gemm(p, {.device = GetParam()});
    const Matrix got = on_device.result();
    for (int64_t row : {int64_t{0}, s.m / 2, s.m - 1}) {
      Matrix want(all.out, 1, s.n), unused(all.out, 1, 1);
      GemmProblem alone = part(all.on_host(unused), row, 1);
      alone.out = want.view();
      gemm(alone);
      ASSERT_TRUE(same_bits(ConstView(got.view()).slice_rows(row, 1).slice_cols(0, s.n), want.view()))
          << s.m << "x" << s.n << "x" << s.k << " row " << row;
    }
  }
}

// Token scales with M fastest, as vLLM's quantizer writes them, and weight scales with gaps, through every row.
TEST_P(BlockGpuTest, StridesOfScalesAreHonoured) {
  Random random{10};
  const int64_t m = 150, n = 400, k = 1040, blocks = 9, channels = 4;
  const HostProblem p = random_problem(random, kBlock, Data::kNormal, m, n, k);
  const Matrix want = on_cpu(p);
  std::vector<float> by_token(static_cast<size_t>((m + 2) * blocks)), gaps(static_cast<size_t>(channels * 32), NAN);
  for (int64_t r = 0; r < m; ++r)
    for (int64_t b = 0; b < blocks; ++b)
      by_token[static_cast<size_t>(b * (m + 2) + r)] = p.scale_a[static_cast<size_t>(r * blocks + b)];
  for (int64_t r = 0; r < channels; ++r)
    for (int64_t b = 0; b < blocks; ++b)
      gaps[static_cast<size_t>(r * 32 + 3 * b)] = p.scale_b[static_cast<size_t>(r * blocks + b)];
  OnDevice on_device(*GetParam(), p);
  cuda::Buffer scale_a(by_token.size() * sizeof(float)), scale_b(gaps.size() * sizeof(float));
  scale_a.upload(by_token.data(), scale_a.size());
  scale_b.upload(gaps.data(), scale_b.size());
  for (std::string_view kernel : kernels(*GetParam(), kBlock)) {
    on_device.renew(p.a);
    GemmProblem strided = on_device.problem();
    strided.scale_a = {static_cast<const float*>(scale_a.data()), m, blocks, 1, m + 2};
    strided.scale_b = {static_cast<const float*>(scale_b.data()), channels, blocks, 32, 3};
    gemm(strided, choose_named(*GetParam(), kernel, m, n, k), {.device = GetParam()});
    EXPECT_TRUE(same_bits(on_device.result().view(), want.view())) << kernel;
  }
}

// The controls: three near forms of the definition must have other bits, or the tests above compare nothing.
TEST(BlockControl, OtherFormsHaveOtherBits) {
  Random random{7};
  const HostProblem p = random_problem(random, kBlock, Data::kNormal, 8, 128, 512, Dtype::kF32);
  const Matrix got = by_reference(p);
  Matrix unfused = got, one_by_one = got, channel_first = got;
  for (int64_t m = 0; m < 8; ++m)
    for (int64_t n = 0; n < 128; ++n) {
      float rounded = 0, twice = 0;
      for (int64_t b = 0; b < 4; ++b) {
        const float chain = reference_accumulate(spec(kBlock), p.a.view().slice_cols(128 * b, 128), m,
                                                 p.b.view().slice_cols(128 * b, 128), n);
        const float scale_a = p.scale_a[static_cast<size_t>(m * 4 + b)], scale_b = p.scale_b[static_cast<size_t>(b)];
        const volatile float product = chain * (scale_a * scale_b);  // two roundings instead of one
        rounded = rounded + product;
        twice = std::fma(scale_a * chain, scale_b, twice);  // the scales one after the other
      }
      unfused.as<float>()[m * 128 + n] = rounded;
      one_by_one.as<float>()[m * 128 + n] = twice;
    }
  EXPECT_FALSE(same_bits(unfused.view(), got.view()));
  EXPECT_FALSE(same_bits(one_by_one.view(), got.view()));
  HostProblem promoted = p;
  promoted.order = Order::kHopperPromoted;
  promoted.scale_a.assign(1, p.scale_a[0]);
  promoted.scale_b.assign(1, p.scale_b[0]);
  EXPECT_FALSE(same_bits(by_reference(promoted).view(), got.view()));
}

TEST(BlockInput, IsRefusedWithTheNumbers) {
  Random random{8};
  const HostProblem good = random_problem(random, kBlock, Data::kNormal, 4, 144, 272);
  const auto message = [&](auto change) { return refusal(cpu_device(), good, change); };
  EXPECT_EQ(message([](GemmProblem&) {}), "accepted");
  EXPECT_EQ(message([](GemmProblem& p) { p.scale_a.cols = 2; }), "scale_a: shape [4,2], hopper-block128 needs [4,3]");
  EXPECT_EQ(message([](GemmProblem& p) { p.scale_b.rows = 1; }), "scale_b: shape [1,3], hopper-block128 needs [2,3]");
  EXPECT_EQ(message([](GemmProblem& p) { p.scale_a = Scales::per_row(p.scale_a.data, 4); }),
            "scale_a: shape [4,1], hopper-block128 needs [4,3]");
  EXPECT_EQ(message([](GemmProblem& p) { p.scale_b.data = nullptr; }), "scale_b: null pointer");
  EXPECT_EQ(message([](GemmProblem& p) { p.scale_a.col_stride = -1; }), "scale_a: strides (3,-1) are negative");
  EXPECT_EQ(message([](GemmProblem& p) { p.order = Order::kHopperFast; }),
            "scale_a: shape [4,3], it must be [1,1] or [4,1]");
}

}  // namespace
}  // namespace samebits::testing
