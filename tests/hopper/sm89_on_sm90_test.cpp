// Ada's rows built a second time for a Hopper, where ptxas makes FP16 products of their instruction: not Ada's bits,
// and unreachable from choose(), but the same loads, loops, epilogue and stores. An executable of its own, for one GPU:
// what Ada's bits do not decide is proven here. Data whose sums are exact in every Order is compared with the CPU;
// other data row against row.
#include <algorithm>

#include "place.h"

namespace samebits::cuda::sm89_on_sm90 {

#define FIXED(...)
#define TILE(name, ...) extern const TileKernel kernel_##name;
#include "cuda/sm89.def"
#undef TILE

namespace {
constexpr bool Straight = false, Swapped = true;
#define TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  Tile{#name, 90, tile_m, tile_n, tile_k, 1, 1, #schedule, operands, Order::k##order, OutKind::k##out, &kernel_##name},
const Tile kRows[] = {
#include "cuda/sm89.def"
};
#undef TILE
#undef FIXED
}  // namespace

}  // namespace samebits::cuda::sm89_on_sm90

namespace samebits::testing {
namespace {

const DeviceInfo& hopper() {
  for (const DeviceInfo& gpu : cuda_devices())
    if (gpu.arch == 90) return gpu;
  throw Error(ErrorCode::kNoDevice, "this test needs a GPU of sm_90");
}

Matrix run_row(const Tile& row, const HostProblem& p) {
  OnDevice on_device(hopper(), p);
  const Launch launch{.device = &hopper()};
  row.kernel->launch(on_device.problem(), launch);
  return on_device.result();
}

std::vector<Dtype> outs_of(const Tile& row) {
  return row.out == OutKind::kFloat ? std::vector{Dtype::kF32} : std::vector{Dtype::kBf16, Dtype::kF16};
}

/// Small whole numbers: every sum is exact, whatever is cut where, so all Orders have the bits of the CPU's.
Matrix exact_matrix(Random& random, int64_t rows, int64_t cols) {
  Matrix m(Dtype::kE4m3, rows, cols);
  for (std::byte& code : m.bytes) {
    constexpr uint8_t kCodes[] = {0x00, 0x38, 0xb8, 0x40, 0xc0, 0x00, 0x38, 0xb8};  // 0, 1, -1, 2, -2
    code = std::byte{kCodes[random.below(8)]};
  }
  return m;
}

HostProblem exact_problem(Random& random, Order order, int64_t m, int64_t n, int64_t k, Dtype out, bool bias) {
  HostProblem p = random_problem(random, order, Data::kNormal, m, n, k, out, bias);
  p.a = exact_matrix(random, m, k);
  p.b = exact_matrix(random, n, k);
  return p;
}

Matrix on_the_cpu(const HostProblem& p) {
  Matrix want(p.out, p.a.rows, p.b.rows, p.out_stride);
  gemm(p.on_host(want));
  return want;
}

class Sm89OnSm90Test : public ::testing::TestWithParam<const Tile*> {
 protected:
  const Tile& row() const { return *GetParam(); }
  /// The first row of the same Order and output: what the others are held to.
  const Tile& first() const {
    return *std::find_if(std::begin(cuda::sm89_on_sm90::kRows), std::end(cuda::sm89_on_sm90::kRows),
                         [&](const Tile& t) { return t.order == row().order && t.out == row().out; });
  }
};

TEST_P(Sm89OnSm90Test, ExactSumsHaveTheBitsOfTheCpu) {
  struct Shape {
    int64_t m, n, k;
  };
  Random random{1};
  int64_t outputs = 0;
  for (const Shape& s : std::vector<Shape>{{1, 16, 16},
                                           {3, 48, 144},
                                           {17, 272, 528},
                                           {64, 64, 64},
                                           {65, 1296, 256},
                                           {130, 144, 96},
                                           {300, 528, 1040},
                                           {16, 4096, 2048},
                                           {1, 1024, 2048},
                                           {129, 128, 1664}})
    for (Dtype out : outs_of(row()))
      for (bool bias : {false, true}) {
        const HostProblem p = exact_problem(random, row().order, s.m, s.n, s.k, out, bias);
        ASSERT_TRUE(same_bits(run_row(row(), p).view(), on_the_cpu(p).view()))
            << "m=" << s.m << " n=" << s.n << " k=" << s.k << " " << name(out) << (bias ? " bias" : "");
        outputs += s.m * s.n;
      }
  RecordProperty("outputs", std::to_string(outputs));
  fmt::print("{}: {} outputs equal to the CPU's\n", row().name, outputs);
}

// Scales, biases and NaN at the edges of FP32: the epilogue does not depend on the unit, nor does a NaN.
TEST_P(Sm89OnSm90Test, EdgesOfScalesAndBiasesHaveTheBitsOfTheCpu) {
  Random random{2};
  for (Dtype out : outs_of(row()))
    for (bool bias : {false, true})
      for (int64_t m : {33, 140}) {
        HostProblem p = edge_problem(random, row().order, m, 144, 48, out, bias);
        p.a = exact_matrix(random, m, 48);
        p.b = exact_matrix(random, 144, 48);
        std::fill_n(p.a.bytes.begin(), 48, std::byte{0});
        p.a.as<uint8_t>()[(m - 1) * 48 + 24] = 0x7f;
        p.b.as<uint8_t>()[72 * 48 + 47] = 0xff;
        ASSERT_TRUE(same_bits(run_row(row(), p).view(), on_the_cpu(p).view())) << "m=" << m << " " << name(out);
      }
}

TEST_P(Sm89OnSm90Test, AnyDataHasTheBitsOfTheFirstRow) {
  Random random{3};
  int64_t outputs = 0;
  for (Data kind : kAllData)
    for (const auto& [m, n, k] : {std::tuple(1, 512, 2048), {77, 336, 1040}, {300, 272, 528}, {2100, 1296, 272}}) {
      const HostProblem p = random_problem(random, row().order, kind, m, n, k, outs_of(row()).front());
      ASSERT_TRUE(same_bits(run_row(row(), p).view(), run_row(first(), p).view()))
          << "m=" << m << " n=" << n << " k=" << k << " data " << static_cast<int>(kind);
      outputs += int64_t{m} * n;
    }
  fmt::print("{}: {} outputs equal to {}'s\n", row().name, outputs, first().name);
}

TEST_P(Sm89OnSm90Test, BatchSizeAndPositionNeverChangeARow) {
  Random random{4};
  int64_t outputs = 0;
  for (int64_t nk : {64, 208}) {
    const HostProblem all = random_problem(random, row().order, Data::kCancelling, 127, nk, nk, outs_of(row()).front());
    std::vector<Matrix> alone;
    for (int64_t r = 0; r < 127; ++r) alone.push_back(run_row(row(), take_rows(all, r, 1)));
    for (int64_t m = 1; m <= 127; m += 3) {
      const int64_t at = random.below(static_cast<uint32_t>(128 - m));
      const Matrix batch = run_row(row(), take_rows(all, at, m));
      for (int64_t r = 0; r < m; ++r)
        ASSERT_TRUE(same_bits(batch.view().slice_rows(r, 1), alone[static_cast<size_t>(at + r)].view()))
            << "m=" << m << " row " << r;
      outputs += m * nk;
    }
  }
  fmt::print("{}: {} outputs equal to their rows alone\n", row().name, outputs);
}

// The control of the tests above: K in two halves, added in FP32, must give other bits somewhere.
TEST_P(Sm89OnSm90Test, ControlSplitKIsCaught) {
  if (row().out != OutKind::kFloat) GTEST_SKIP() << "sums are added in FP32";
  Random random{5};
  HostProblem p = random_problem(random, row().order, Data::kAllPatterns, 16, 64, 1088, Dtype::kF32);
  p.scale_a.assign(1, 1.0f), p.scale_b.assign(1, 1.0f);
  const Matrix whole = run_row(row(), p);
  const Matrix halves = in_two_halves_of_k(p, [&](const HostProblem& part) { return run_row(row(), part); });
  EXPECT_FALSE(same_bits(halves.view(), whole.view()));
}

TEST_P(Sm89OnSm90Test, RowStridesAreHonoured) {
  Random random{6};
  const Dtype out = outs_of(row()).front();
  for (int64_t m : {1, 40, 200}) {
    HostProblem dense = exact_problem(random, row().order, m, 112, 80, out, true);
    HostProblem padded = dense;
    padded.a = Matrix(Dtype::kE4m3, m, 80, 128);
    padded.b = Matrix(Dtype::kE4m3, 112, 80, 96);
    for (int64_t r = 0; r < m; ++r) std::memcpy(padded.a.view().at(r, 0), dense.a.view().at(r, 0), 80);
    for (int64_t r = 0; r < 112; ++r) std::memcpy(padded.b.view().at(r, 0), dense.b.view().at(r, 0), 80);
    padded.out_stride = 136;
    const Matrix got = run_row(row(), padded);
    ASSERT_TRUE(same_bits(got.view(), on_the_cpu(dense).view())) << "m=" << m;
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 112; c < 136; ++c)
        ASSERT_EQ(bits_at(ConstView(got.bytes.data(), out, m, 136), r, c), out == Dtype::kF32 ? 0xa5a5a5a5u : 0xa5a5u);
  }
}

std::vector<const Tile*> all_rows() {
  std::vector<const Tile*> rows;
  for (const Tile& row : cuda::sm89_on_sm90::kRows) rows.push_back(&row);
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Rows, Sm89OnSm90Test, ::testing::ValuesIn(all_rows()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace samebits::testing
