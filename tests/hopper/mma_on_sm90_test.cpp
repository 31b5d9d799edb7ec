// The rows of mma.sync built a second time for a Hopper, unreachable from choose(). An executable of its own, for one
// GPU.
//
// Of FP8 operands (sm89.def) ptxas makes FP16 products there: not Ada's bits, but the same loads, loops, epilogue and
// stores. Data whose sums are exact in every Order is compared with the CPU; other data row against row. Of 16-bit
// operands (sm80.def) it is the unit of hopper-bf16, so any data is compared with the CPU's bits of that Order.
#include <algorithm>

#include "cuda/operands.h"
#include "half.h"
#include "place.h"

namespace samebits::cuda {

#define FIXED(...)
#define TILE(name, ...) extern const TileKernel kernel_##name;
namespace sm89_on_sm90 {
#include "cuda/sm89.def"
}
namespace sm80_on_sm90 {
#include "cuda/sm80.def"
}
#undef TILE

namespace {
#define TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  Tile{#name,                                                                                    \
       90,                                                                                       \
       tile_m,                                                                                   \
       tile_n,                                                                                   \
       tile_k,                                                                                   \
       1,                                                                                        \
       1,                                                                                        \
       #schedule,                                                                                \
       true,                                                                                     \
       Order::k##order,                                                                          \
       OutKind::k##out,                                                                          \
       &kernel_##name,                                                                           \
       {},                                                                                       \
       OperandWord::operands == OperandWord::WeightOnly},
using namespace sm89_on_sm90;
using namespace sm80_on_sm90;
const Tile kFp8Rows[] = {
#include "cuda/sm89.def"
};
const Tile kHalfRows[] = {
#include "cuda/sm80.def"
};
#undef TILE
#undef FIXED
}  // namespace

}  // namespace samebits::cuda

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

class MmaOnSm90Test : public ::testing::TestWithParam<const Tile*> {
 protected:
  const Tile& row() const { return *GetParam(); }
  /// The first row of the same Order and output: what the others are held to.
  const Tile& first() const {
    return *std::find_if(std::begin(cuda::kFp8Rows), std::end(cuda::kFp8Rows),
                         [&](const Tile& t) { return t.order == row().order && t.out == row().out; });
  }
};

TEST_P(MmaOnSm90Test, ExactSumsHaveTheBitsOfTheCpu) {
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
TEST_P(MmaOnSm90Test, EdgesOfScalesAndBiasesHaveTheBitsOfTheCpu) {
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

TEST_P(MmaOnSm90Test, AnyDataHasTheBitsOfTheFirstRow) {
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

TEST_P(MmaOnSm90Test, BatchSizeAndPositionNeverChangeARow) {
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
TEST_P(MmaOnSm90Test, ControlSplitKIsCaught) {
  if (row().out != OutKind::kFloat) GTEST_SKIP() << "sums are added in FP32";
  Random random{5};
  HostProblem p = random_problem(random, row().order, Data::kAllPatterns, 16, 64, 1088, Dtype::kF32);
  p.scale_a.assign(1, 1.0f), p.scale_b.assign(1, 1.0f);
  const Matrix whole = run_row(row(), p);
  const Matrix halves = in_two_halves_of_k(p, [&](const HostProblem& part) { return run_row(row(), part); });
  EXPECT_FALSE(same_bits(halves.view(), whole.view()));
}

TEST_P(MmaOnSm90Test, RowStridesAreHonoured) {
  Random random{6};
  const Dtype out = outs_of(row()).front();
  for (int64_t m : {1, 40, 200}) {
    const HostProblem dense = exact_problem(random, row().order, m, 112, 80, out, true);
    const HostProblem padded = with_row_strides(dense, 128, 96, 136);
    const Matrix got = run_row(row(), padded);
    ASSERT_TRUE(same_bits(got.view(), on_the_cpu(dense).view())) << "m=" << m;
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 112; c < 136; ++c)
        ASSERT_EQ(bits_at(ConstView(got.bytes.data(), out, m, 136), r, c), out == Dtype::kF32 ? 0xa5a5a5a5u : 0xa5a5u);
  }
}

template <size_t kRows>
std::vector<const Tile*> all(const Tile (&table)[kRows]) {
  std::vector<const Tile*> rows;
  for (const Tile& row : table) rows.push_back(&row);
  return rows;
}
std::string row_name(const ::testing::TestParamInfo<const Tile*>& info) { return std::string(info.param->name); }

INSTANTIATE_TEST_SUITE_P(Rows, MmaOnSm90Test, ::testing::ValuesIn(all(cuda::kFp8Rows)), row_name);

class HalfMmaOnSm90Test : public ::testing::TestWithParam<const Tile*> {
 protected:
  const Tile& row() const { return *GetParam(); }

  /// A problem of the row's operands in the Order of Hopper's unit; scales and bias now and then.
  HostProblem problem(Random& random, size_t kind, Dtype dtype, int64_t m, int64_t n, int64_t k, Dtype out) const {
    auto [a, b] = half_operands(random, kAllHalfData[kind], dtype, m, n, k);
    if (row().weight_only) {  // rows on 16 bytes, as check_gpu() asks for; NaN here and there
      b = fp8_matrix(random, kAllData[kind % std::size(kAllData)], n, k, Dtype::kE4m3, (k + 15) / 16 * 16);
      for (int64_t r = 0; r < n; r += 5) *static_cast<uint8_t*>(b.view().at(r, r % k)) = r % 2 ? 0x7f : 0xff;
    }
    HostProblem p{Order::kHopperBf16, std::move(a), std::move(b), {}, {}, std::nullopt, out};
    if (random.below(2)) p.bias = float_matrix(random, out, 1, n, n, false);
    if (random.below(2)) p.scale_b = random_scales(random, random.below(2) ? n : 1);
    if (random.below(4) == 0) p.scale_a = random_scales(random, m);
    return p;
  }
};

TEST_P(HalfMmaOnSm90Test, AnyDataHasTheBitsOfTheCpu) {
  Random random{7};
  int64_t outputs = 0;
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16})
    for (Dtype out : outs_of(row()))
      for (size_t kind = 0; kind < std::size(kAllHalfData); ++kind)
        for (const auto& [m, n, k] :
             {std::tuple(1, 8, 8), {3, 48, 152}, {17, 264, 520}, {65, 1288, 256}, {130, 136, 1048}, {16, 512, 2048}}) {
          const HostProblem p = problem(random, kind, dtype, m, n, k, out);
          ASSERT_TRUE(same_bits(run_row(row(), p).view(), on_the_cpu(p).view()))
              << "m=" << m << " n=" << n << " k=" << k << " " << name(dtype) << " " << name(out)
              << (p.bias ? " bias" : "") << " data " << kind;
          outputs += int64_t{m} * n;
        }
  fmt::print("{}: {} outputs equal to the CPU's in hopper-bf16\n", row().name, outputs);
}

TEST_P(HalfMmaOnSm90Test, BatchSizeAndPositionNeverChangeARow) {
  Random random{8};
  const HostProblem whole = problem(random, 0, Dtype::kBf16, 127, 208, 208, outs_of(row()).front());
  const Matrix want = on_the_cpu(whole);
  for (int64_t m = 1; m <= 127; ++m) {
    const int64_t at = random.below(static_cast<uint32_t>(128 - m));
    const Matrix batch = run_row(row(), take_rows(whole, at, m));
    ASSERT_TRUE(same_bits(batch.view(), ConstView(want.view()).slice_rows(at, m))) << "m=" << m << " at row " << at;
  }
}

TEST_P(HalfMmaOnSm90Test, RowStridesAreHonoured) {
  Random random{9};
  for (int64_t m : {1, 40, 200}) {
    const HostProblem dense = problem(random, 1, Dtype::kF16, m, 120, 88, outs_of(row()).front());
    const HostProblem padded = with_row_strides(dense, 136, 144, 144);
    ASSERT_TRUE(same_bits(run_row(row(), padded).view(), on_the_cpu(dense).view())) << "m=" << m;
  }
}

// The controls: Ampere's constants and K in two halves have other bits somewhere in the same data.
TEST_P(HalfMmaOnSm90Test, ControlAnotherOrderAndSplitKAreCaught) {
  if (row().out != OutKind::kFloat) GTEST_SKIP() << "sums are compared in FP32";
  Random random{10};
  HostProblem p = problem(random, 5, Dtype::kBf16, 16, 64, 1088, Dtype::kF32);
  p.bias.reset(), p.scale_a.clear(), p.scale_b.clear();
  const Matrix got = run_row(row(), p);
  const Matrix halves = in_two_halves_of_k(p, [&](const HostProblem& part) { return run_row(row(), part); });
  EXPECT_FALSE(same_bits(halves.view(), got.view()));
  p.order = Order::kAmpereBf16;
  EXPECT_FALSE(same_bits(on_the_cpu(p).view(), got.view()));
}

INSTANTIATE_TEST_SUITE_P(Rows, HalfMmaOnSm90Test, ::testing::ValuesIn(all(cuda::kHalfRows)), row_name);

}  // namespace
}  // namespace samebits::testing
