// gemm() on every backend: the bits of the reference, whatever the row, the batch, the position and the strides.
#include "samebits/gemm.h"

#include "numerics/reference.h"
#include "place.h"

namespace samebits::testing {
namespace {

class GemmTest : public ::testing::TestWithParam<const DeviceInfo*> {
 protected:
  const DeviceInfo& device() const { return *GetParam(); }
  Order order() const { return orders_on(device()).front(); }
  bool has_fp32() const { return !kernels(device(), order(), Dtype::kF32).empty(); }

  Matrix expected(const HostProblem& p) const { return expected_on(device(), p); }
};

constexpr Order kHopperOrders[] = {Order::kHopperFast, Order::kHopperPromoted, Order::kHopperBlock128};
constexpr Dtype kOuts[] = {Dtype::kBf16, Dtype::kF16, Dtype::kF32};

// Every row of the tables against the CPU, over kinds of data, output types, bias and edges of its tile.
TEST_P(GemmTest, EveryRowHasTheBitsOfTheOrder) {
  struct Shape {
    int64_t m, n, k;
  };
  const std::vector<Shape> shapes = device().is_cpu()
                                        ? std::vector<Shape>{{1, 16, 32}, {5, 48, 144}, {17, 33, 272}}
                                        : std::vector<Shape>{{1, 16, 16},     {3, 48, 144},   {17, 272, 528},
                                                             {65, 1296, 256}, {130, 144, 96}, {300, 528, 1040}};
  Random random{1};
  int64_t ran = 0;
  for (const OrderSpec& order : kOrders)
    for (Dtype out : kOuts)
      for (std::string_view kernel : rows(device(), order.order, out))
        for (const Shape& s : shapes)
          for (Data kind : kAllData) {
            const bool with_bias = random.below(2);
            const HostProblem p = random_problem(random, order.order, kind, s.m, s.n, s.k, out, with_bias);
            ASSERT_TRUE(same_bits(run(device(), p, kernel).view(), expected(p).view()))
                << kernel << " " << order.name << " m=" << s.m << " n=" << s.n << " k=" << s.k << " " << name(out)
                << (with_bias ? " bias" : "") << " data " << static_cast<int>(kind);
            ++ran;
          }
  EXPECT_GE(ran, 100);
}

// More output tiles than a GPU has SMs, so that each block runs several: what only the second one can get wrong.
TEST_P(GemmTest, EveryRowHasTheBitsOfTheOrderOverManyTiles) {
  const int64_t m = device().is_cpu() ? 70 : 5200,
                n = device().is_cpu() ? 48 : 1296;  // the CPU has no tiles to run out of
  Random random{14};
  for (Order order : orders_on(device()))
    for (int64_t k : {80, 1040}) {
      const HostProblem p = random_problem(random, order, Data::kNormal, m, n, k);
      const Matrix want = expected(p);
      for (std::string_view kernel : rows(device(), order))
        ASSERT_TRUE(same_bits(run(device(), p, kernel).view(), want.view())) << kernel << " k=" << k;
    }
}

// NaN, infinity, zero, subnormal and huge scales and biases, NaN operands and a row of zeros, through every row.
TEST_P(GemmTest, EveryRowHasTheBitsOfTheOrderAtTheEdges) {
  Random random{11};
  for (const OrderSpec& order : kOrders)
    for (Dtype out : kOuts)
      for (std::string_view kernel : rows(device(), order.order, out))
        for (bool with_bias : {false, true})
          for (int64_t m : {33, 140}) {
            const HostProblem p = edge_problem(random, order.order, m, 144, 48, out, with_bias);
            ASSERT_TRUE(same_bits(run(device(), p, kernel).view(), expected(p).view()))
                << kernel << " " << order.name << " m=" << m << " " << name(out) << (with_bias ? " bias" : "");
          }
}

TEST_P(GemmTest, OneScaleForAllEqualsThatScaleForEach) {
  Random random{2};
  HostProblem p = random_problem(random, order(), Data::kNormal, 37, 80, 160);
  p.scale_a.assign(37, 0.037f);
  p.scale_b.assign(80, 0.91f);
  const Matrix each = run(device(), p);
  p.scale_a.resize(1);
  p.scale_b.resize(1);
  EXPECT_TRUE(same_bits(run(device(), p).view(), each.view()));
}

// The M sweep of vLLM's kernel tests: each row of each batch against the row alone.
TEST_P(GemmTest, BatchSizeAndPositionNeverChangeARow) {
  Random random{3};
  for (Order order : orders_on(device()))
    for (int64_t nk : {32, 64, 96}) {
      const HostProblem all = random_problem(random, order, Data::kCancelling, 127, nk, nk);
      std::vector<Matrix> alone;
      for (int64_t row = 0; row < 127; ++row) alone.push_back(run(device(), take_rows(all, row, 1)));
      for (int64_t m = 1; m <= 127; m += device().is_cpu() ? 7 : 1) {
        const int64_t first = random.below(static_cast<uint32_t>(128 - m));
        const Matrix batch = run(device(), take_rows(all, first, m));
        for (int64_t row = 0; row < m; ++row)
          ASSERT_TRUE(same_bits(batch.view().slice_rows(row, 1), alone[static_cast<size_t>(first + row)].view()))
              << name(order) << " m=" << m << " row " << row;
      }
    }
}

// The control of every test above: two schedules that do change bits, compared in the same way, must be caught.
TEST_P(GemmTest, ControlSplitKIsCaught) {
  if (!has_fp32()) GTEST_SKIP() << "sums are added in FP32";
  Random random{4};
  HostProblem p = random_problem(random, order(), Data::kAllPatterns, 16, 64, 512, Dtype::kF32);
  p.scale_a.assign(1, 1.0f);
  p.scale_b.assign(1, 1.0f);
  const Matrix whole = run(device(), p);
  const Matrix halves = in_two_halves_of_k(p, [&](const HostProblem& part) { return run(device(), part); });
  EXPECT_FALSE(same_bits(halves.view(), whole.view()));
}

TEST_P(GemmTest, ControlFlippedScaleOrderIsCaught) {
  if (!has_fp32()) GTEST_SKIP() << "compared in FP32";
  Random random{5};
  HostProblem p = random_problem(random, order(), Data::kNormal, 64, 64, 128, Dtype::kF32);
  const Matrix got = run(device(), p);
  Matrix flipped = got;
  for (int64_t m = 0; m < 64; ++m)
    for (int64_t n = 0; n < 64; ++n) {
      const float acc = reference_accumulate(spec(p.order), p.a.view(), m, p.b.view(), n);
      flipped.as<float>()[m * 64 + n] = p.scale_a[static_cast<size_t>(m)] * (p.scale_b[static_cast<size_t>(n)] * acc);
    }
  EXPECT_FALSE(same_bits(flipped.view(), got.view()));
}

// Padded rows of a, b and out are read and written where they are; the padding keeps its bytes.
TEST_P(GemmTest, RowStridesAreHonoured) {
  Random random{6};
  for (int64_t m : {1, 40, 200}) {
    const HostProblem dense = random_problem(random, order(), Data::kNormal, m, 112, 80);
    const HostProblem padded = with_row_strides(dense, 128, 96, 136);
    const Matrix got = run(device(), padded), want = run(device(), dense);
    ASSERT_TRUE(same_bits(got.view(), want.view())) << "m=" << m;
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 112; c < 136; ++c)
        ASSERT_EQ(bits_at(ConstView(got.bytes.data(), Dtype::kBf16, m, 136), r, c), 0xa5a5u);
  }
}

TEST_P(GemmTest, NoBiasIsNotAZeroBias) {
  Random random{7};
  HostProblem p = random_problem(random, order(), Data::kNormal, 4, 16, 32);
  std::fill(p.a.bytes.begin(), p.a.bytes.end(), std::byte{0});
  p.scale_a.assign(1, -1.0f);  // -1 * +0 = -0
  p.scale_b.assign(1, 1.0f);
  EXPECT_EQ(bits_at(run(device(), p).view(), 0, 0), 0x8000u);
  p.bias.emplace(Dtype::kBf16, 1, 16);
  std::fill(p.bias->bytes.begin(), p.bias->bytes.end(), std::byte{0});
  EXPECT_EQ(bits_at(run(device(), p).view(), 0, 0), 0x0000u);
}

TEST_P(GemmTest, EmptyBatchOrEmptyOutputReturns) {
  Random random{8};
  for (auto [m, n] : {std::pair<int64_t, int64_t>{0, 32}, {4, 0}, {0, 0}}) {
    HostProblem p = random_problem(random, order(), Data::kNormal, m, n, 32);
    if (p.scale_a.empty()) p.scale_a = {1.0f};
    if (p.scale_b.empty()) p.scale_b = {1.0f};
    EXPECT_NO_THROW(run(device(), p));
  }
}

TEST_P(GemmTest, BadInputIsRefusedWithTheNumbers) {
  Random random{9};
  const HostProblem good = random_problem(random, order(), Data::kNormal, 4, 32, 48);
  const auto message = [&](auto change) { return refusal(device(), good, change); };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.b.cols = 32; }), "[32,32]"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.out.cols = 31; }), "[4,31]"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.dtype = Dtype::kBf16; }), "bf16"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.order = Order::kHopperBf16; }), "a is e4m3; hopper-bf16 takes bf16"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.out.dtype = Dtype::kE4m3; }), "e4m3"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.scale_a.rows = 3; }), "[3,1]"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.scale_b.data = nullptr; }), "scale_b"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.data = nullptr; }), "null"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.cols = p.b.cols = 0; }), "K is 0"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.out.row_stride = 8; }), "overlap at strides (8,1)"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.out.row_stride = 0; }), "overlap"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.dtype = static_cast<Dtype>(9); }), "9 is no Dtype"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.bias = ConstView(p.a.data, Dtype::kBf16, 1, 31); }), "[1,31]"));
  if (device().is_cpu()) return;
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.cols = p.b.cols = 47; }), "K=47"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.row_stride = 49; }), "49"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.data = p.a.at(0, 1); }), "16 bytes"));
  EXPECT_TRUE(has(message([](GemmProblem& p) { p.a.dtype = Dtype::kE5m2; }), "e5m2"));
  const OrderSpec& other = spec(device().arch == 89 ? Order::kHopperFast : Order::kAdaFast);
  EXPECT_TRUE(has(message([&](GemmProblem& p) { p.order = other.order; }), other.name.data()));
}

INSTANTIATE_TEST_SUITE_P(On, GemmTest, ::testing::ValuesIn(places()), place_name);

}  // namespace
}  // namespace samebits::testing
