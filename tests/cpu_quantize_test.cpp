// The CPU quantizers against their formulas, element by element, once per SIMD target.
#include "cpu/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "bits.h"
#include "files.h"
#include "numerics/formats.h"
#include "samebits/error.h"
#include "simd_target.h"

namespace samebits {
namespace {

using testing::expect_error;
using testing::Matrix;
using testing::Random;
using testing::same_bits;

constexpr Dtype kFloats[] = {Dtype::kBf16, Dtype::kF16, Dtype::kF32};
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Any bit pattern of the dtype; without NaN and infinity if `finite`.
Matrix any_bits(Random& random, Dtype dtype, int64_t rows, int64_t cols, bool finite) {
  Matrix m(dtype, rows, cols, cols + 3);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) do {
        const uint32_t bits = static_cast<uint32_t>(random.next());
        std::memcpy(m.view().at(r, c), &bits, size_of(dtype));
      } while (finite && !std::isfinite(load(dtype, m.view().at(r, c))));
  return m;
}

// Values of an ordinary layer, with a few outliers, zeros of both signs and tiny ones.
Matrix ordinary(Random& random, Dtype dtype, int64_t rows, int64_t cols) {
  Matrix m(dtype, rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      double v = random.uniform() - 0.5;
      switch (random.below(16)) {
        case 0: v *= 30; break;
        case 1: v *= 1e-3; break;
        case 2: v *= 0; break;
        default: break;
      }
      store(dtype, m.view().at(r, c), static_cast<float>(v));
    }
  return m;
}

uint8_t cast_clamped(float v) {
  if (v > 448.0f) v = 448.0f;
  if (v < -448.0f) v = -448.0f;
  return static_cast<uint8_t>(encode(kFormatE4m3, v));
}

float absmax(const ConstView& x, int64_t first, int64_t count) {
  float largest = 0;
  for (int64_t r = first; r < first + count; ++r)
    for (int64_t c = 0; c < x.cols; ++c) {
      const float v = load(x.dtype, x.at(r, c));
      if (!std::isnan(v)) largest = std::max(largest, std::fabs(v));  // not fmax, which lets a signalling NaN through
    }
  return largest;
}

float formula_scale(float largest) { return std::max(largest / 448.0f, 1.0f / (448.0f * 512.0f)); }

// q[r,c] = cast(value(r, x[r,c])), padding zero.
template <class Value>
Matrix expected(const ConstView& x, int64_t q_cols, const Value& value) {
  Matrix want(Dtype::kE4m3, x.rows, q_cols);
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < q_cols; ++c)
      *static_cast<uint8_t*>(want.view().at(r, c)) =
          c < x.cols ? cast_clamped(value(r, load(x.dtype, x.at(r, c)))) : uint8_t{0};
  return want;
}

void check_per_token(const ConstView& x, int64_t q_cols, const float* upper_bound, int threads) {
  Matrix got(Dtype::kE4m3, x.rows, q_cols);
  std::vector<float> scale(static_cast<size_t>(x.rows), -1.0f);
  cpu::quantize_per_token(x, got.view(), scale.data(), upper_bound, threads);
  for (int64_t r = 0; r < x.rows; ++r) {
    const float largest = absmax(x, r, 1);
    ASSERT_EQ(scale[static_cast<size_t>(r)], formula_scale(upper_bound ? std::fmin(largest, *upper_bound) : largest))
        << r;
  }
  const Matrix want = expected(x, q_cols, [&](int64_t r, float v) { return v / scale[static_cast<size_t>(r)]; });
  EXPECT_TRUE(same_bits(got.view(), want.view())) << name(x.dtype) << " " << x.cols;
}

class CpuQuantizeTest : public testing::SimdTargetTest {};
SAMEBITS_PER_SIMD_TARGET(CpuQuantizeTest);

TEST_P(CpuQuantizeTest, PerTokenOfAnyBits) {
  Random random{1};
  for (Dtype dtype : kFloats)
    for (int64_t cols : {1, 3, 15, 16, 17, 64, 129, 1000})
      for (bool finite : {true, false})
        check_per_token(any_bits(random, dtype, 5, cols, finite).view(), cols + 7, nullptr, 1);
}

TEST_P(CpuQuantizeTest, PerTokenOfOrdinaryValuesWithUpperBound) {
  Random random{2};
  for (Dtype dtype : kFloats) {
    const Matrix x = ordinary(random, dtype, 33, 1920);
    check_per_token(x.view(), 1920, nullptr, 2);
    for (float bound : {3.0f, 0.0f, -1.0f, 1e30f, kInf}) check_per_token(x.view(), 1920, &bound, 2);
  }
}

// The smallest power of two that is not below x, by comparison.
float power_from(float x) {
  if (std::isinf(x)) return x;
  float power = 0x1p-126f;
  while (power < x) power *= 2;
  return power;
}

TEST_P(CpuQuantizeTest, PerGroupOfAnyBits) {
  Random random{12};
  for (Dtype dtype : kFloats)
    for (int64_t cols : {1, 16, 127, 128, 129, 272, 1000})
      for (bool power_of_two : {false, true})
        for (bool finite : {false, true}) {
          const int64_t groups = (cols + 127) / 128;
          const Matrix x = finite ? ordinary(random, dtype, 5, cols) : any_bits(random, dtype, 5, cols, false);
          Matrix got(Dtype::kE4m3, 5, cols + 9), by_group(Dtype::kF32, groups, 5);
          const View scale(by_group.view().data, Dtype::kF32, 5, groups, 1, 5);  // M fastest
          cpu::quantize_per_group(x.view(), got.view(), {scale, power_of_two}, 2);
          Matrix want(Dtype::kE4m3, 5, cols + 9);
          for (int64_t r = 0; r < 5; ++r)
            for (int64_t c = 0; c < cols + 9; ++c) {
              float s = 1.0f;
              if (c < cols) {
                const int64_t first = c / 128 * 128;
                const float largest = absmax(x.view().slice_cols(first, std::min<int64_t>(128, cols - first)), r, 1);
                s = std::max(largest, 1e-10f) / 448.0f;
                if (power_of_two) s = power_from(std::max(s, 1e-10f));
                ASSERT_EQ(s, *static_cast<const float*>(scale.at(r, c / 128))) << r << "," << c;
              }
              const float v = c < cols ? load(dtype, x.view().at(r, c)) / s : 0.0f;
              *static_cast<uint8_t*>(want.view().at(r, c)) = cast_clamped(v);
            }
          EXPECT_TRUE(same_bits(got.view(), want.view())) << name(dtype) << " " << cols << " " << power_of_two;
        }
}

TEST_P(CpuQuantizeTest, BlocksOfAWeight) {
  Random random{13};
  for (Dtype dtype : kFloats)
    for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {128, 256}, {130, 300}, {300, 127}}) {
      const Matrix w = ordinary(random, dtype, n, k);
      const int64_t across = (k + 127) / 128;
      Matrix got(Dtype::kE4m3, n, k), want(Dtype::kE4m3, n, k);
      std::vector<float> scale(static_cast<size_t>(weight_scales(Granularity::kPerBlock, n, k)), -1.0f);
      ASSERT_EQ(static_cast<int64_t>(scale.size()), (n + 127) / 128 * across);
      cpu::quantize_weight(w.view(), Granularity::kPerBlock, got.view(), scale.data(), "w", 2);
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < k; ++c) {
          const int64_t row = r / 128 * 128, col = c / 128 * 128;
          const float s = scale[static_cast<size_t>(row / 128 * across + col / 128)];
          if (r == row && c == col) {
            ASSERT_EQ(s, formula_scale(absmax(w.view().slice_cols(col, std::min<int64_t>(128, k - col)), row,
                                              std::min<int64_t>(128, n - row))));
          }
          *static_cast<uint8_t*>(want.view().at(r, c)) = cast_clamped(load(dtype, w.view().at(r, c)) / s);
        }
      EXPECT_TRUE(same_bits(got.view(), want.view())) << name(dtype) << " " << n << "x" << k;

      Matrix wide(dtype, n, k), expect(dtype, n, k);
      cpu::dequantize(got.view(), Scales::blocks(scale.data(), (n + 127) / 128, across), wide.view(), 2);
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < k; ++c)
          store(dtype, expect.view().at(r, c),
                load(Dtype::kE4m3, got.view().at(r, c)) * scale[static_cast<size_t>(r / 128 * across + c / 128)]);
      EXPECT_TRUE(same_bits(wide.view(), expect.view())) << name(dtype) << " " << n << "x" << k;
    }
}

TEST_P(CpuQuantizeTest, NanAndInfinityGoThrough) {
  const float row[] = {kNan, kInf, -kInf, 1.0f, -0.0f, 0.0f, -kNan, 448.0f};
  const ConstView x(row, Dtype::kF32, 1, 8);
  uint8_t q[8];
  float scale;
  cpu::quantize_per_token(x, View(q, Dtype::kE4m3, 1, 8), &scale, nullptr, 1);
  EXPECT_EQ(scale, kInf);
  const uint8_t want[] = {0x7f, 0x7f, 0x7f, 0x00, 0x80, 0x00, 0x7f, 0x00};
  EXPECT_TRUE(std::equal(q, q + 8, want));
  const float bound = 448.0f;
  cpu::quantize_per_token(x, View(q, Dtype::kE4m3, 1, 8), &scale, &bound, 1);
  EXPECT_EQ(scale, 1.0f);
  const uint8_t bounded[] = {0x7f, 0x7e, 0xfe, 0x38, 0x80, 0x00, 0x7f, 0x7e};
  EXPECT_TRUE(std::equal(q, q + 8, bounded));
  const float only_nan[] = {kNan, kNan};
  cpu::quantize_per_token(ConstView(only_nan, Dtype::kF32, 1, 2), View(q, Dtype::kE4m3, 1, 2), &scale, nullptr, 1);
  EXPECT_EQ(scale, kMinScale);
}

TEST_P(CpuQuantizeTest, StaticMultipliesByTheRoundedReciprocal) {
  Random random{3};
  int64_t divided_differs = 0;
  for (Dtype dtype : kFloats) {
    const Matrix x = ordinary(random, dtype, 9, 1001);
    for (float scale : {0.0123f, 1.0f, 0.0f, kInf, -0.5f, 3e-39f}) {
      Matrix got(Dtype::kE4m3, 9, 1008);
      cpu::quantize_static(x.view(), &scale, got.view(), 2);
      const float reciprocal = 1.0f / scale;
      const Matrix want = expected(x.view(), 1008, [&](int64_t, float v) { return v * reciprocal; });
      EXPECT_TRUE(same_bits(got.view(), want.view())) << name(dtype) << " " << scale;
    }
  }
  // The control: where x / scale is a tie between two codes, a division must give other bits than the product.
  for (int i = 0; i < 64; ++i) {
    const float scale = static_cast<float>(0.001 + random.uniform() / 300);
    Matrix x(Dtype::kF32, 1, 64), got(Dtype::kE4m3, 1, 64);
    for (uint32_t c = 0; c < 64; ++c)
      x.as<float>()[c] = scale * (decode(kFormatE4m3, 0x20 + c) + decode(kFormatE4m3, 0x21 + c)) / 2;
    cpu::quantize_static(x.view(), &scale, got.view(), 2);
    divided_differs +=
        !same_bits(got.view(), expected(x.view(), 64, [&](int64_t, float v) { return v / scale; }).view());
    const float reciprocal = 1.0f / scale;
    EXPECT_TRUE(same_bits(got.view(), expected(x.view(), 64, [&](int64_t, float v) { return v * reciprocal; }).view()));
  }
  EXPECT_GT(divided_differs, 0);
}

TEST_P(CpuQuantizeTest, Weights) {
  Random random{4};
  for (Dtype dtype : kFloats)
    for (const bool any : {false, true}) {
      const Matrix w = any ? any_bits(random, dtype, 21, 333, true) : ordinary(random, dtype, 21, 333);
      Matrix got(Dtype::kE4m3, 21, 333);
      std::vector<float> scale(21, -1.0f);
      cpu::quantize_weight(w.view(), Granularity::kPerChannel, got.view(), scale.data(), "w", 2);
      for (int64_t r = 0; r < 21; ++r) ASSERT_EQ(scale[static_cast<size_t>(r)], formula_scale(absmax(w.view(), r, 1)));
      const auto per_channel = [&](int64_t r, float v) { return v / scale[static_cast<size_t>(r)]; };
      EXPECT_TRUE(same_bits(got.view(), expected(w.view(), 333, per_channel).view())) << name(dtype);

      cpu::quantize_weight(w.view(), Granularity::kPerTensor, got.view(), scale.data(), "w", 2);
      ASSERT_EQ(scale[0], formula_scale(absmax(w.view(), 0, 21)));
      const auto per_tensor = [&](int64_t, float v) { return v / scale[0]; };
      EXPECT_TRUE(same_bits(got.view(), expected(w.view(), 333, per_tensor).view())) << name(dtype);
    }
}

TEST_P(CpuQuantizeTest, RefusesAWeightThatIsNotFiniteByName) {
  Random random{5};
  for (Dtype dtype : kFloats)
    for (float bad : {kNan, kInf, -kInf}) {
      Matrix w = ordinary(random, dtype, 7, 50);
      store(dtype, w.view().at(4, 49), bad);
      store(dtype, w.view().at(5, 3), bad);
      Matrix q(Dtype::kE4m3, 7, 50);
      std::vector<float> scale(7);
      expect_error(
          [&] { cpu::quantize_weight(w.view(), Granularity::kPerTensor, q.view(), scale.data(), "layer.3.weight", 2); },
          ErrorCode::kBadInput, fmt::format("layer.3.weight[4,49] is {}", bad));
      expect_error(
          [&] { cpu::quantize_weight(w.view(), Granularity::kPerBlock, q.view(), scale.data(), "layer.3.weight", 2); },
          ErrorCode::kBadInput, fmt::format("layer.3.weight[4,49] is {}", bad));
    }
}

TEST_P(CpuQuantizeTest, DequantizesEveryCode) {
  for (Dtype from : {Dtype::kE4m3, Dtype::kE5m2})
    for (Dtype to : kFloats) {
      Matrix q(from, 3, 256);
      for (int64_t r = 0; r < 3; ++r)
        for (int64_t c = 0; c < 256; ++c) *static_cast<uint8_t*>(q.view().at(r, c)) = static_cast<uint8_t>(c);
      const float values[] = {0.0371f, 1e-38f, 300.0f};
      for (const Scales& scale : {Scales::per_row(values, 3), Scales::per_tensor(values)}) {
        Matrix got(to, 3, 256), want(to, 3, 256);
        cpu::dequantize(q.view(), scale, got.view(), 2);
        for (int64_t r = 0; r < 3; ++r)
          for (int64_t c = 0; c < 256; ++c)
            store(to, want.view().at(r, c), load(from, q.view().at(r, c)) * scale.of_row(r));
        EXPECT_TRUE(same_bits(got.view(), want.view())) << name(from) << " " << name(to);
      }
    }
}

TEST_P(CpuQuantizeTest, AnyStrides) {
  Random random{6};
  for (Dtype dtype : kFloats) {
    const Matrix x = any_bits(random, dtype, 40, 30, true);
    const ConstView transposed(x.view().data, dtype, 30, 40, 1, x.row_stride);
    check_per_token(transposed, 41, nullptr, 1);

    // q and out by columns: element [r,c] at c * 30 + r.
    std::vector<uint8_t> codes(30 * 40);
    std::vector<float> scale(30);
    const View q(codes.data(), Dtype::kE4m3, 30, 40, 1, 30);
    cpu::quantize_weight(transposed, Granularity::kPerChannel, q, scale.data(), "w", 1);
    const auto value = [&](int64_t r, float v) { return v / scale[static_cast<size_t>(r)]; };
    EXPECT_TRUE(same_bits(q, expected(transposed, 40, value).view()));
    Matrix dense(dtype, 30, 40), by_column(dtype, 40, 30);
    cpu::dequantize(q, Scales::per_row(scale.data(), 30), dense.view(), 1);
    const View strided(by_column.view().data, dtype, 30, 40, 1, 30);
    cpu::dequantize(q, Scales::per_row(scale.data(), 30), strided, 1);
    EXPECT_TRUE(same_bits(strided, dense.view()));
  }
}

// The halfway points between codes, their neighbours and the codes themselves.
TEST_P(CpuQuantizeTest, RoundingBoundaries) {
  std::vector<float> values;
  for (uint32_t code = 0; code < 0x7e; ++code) {
    const float half = (decode(kFormatE4m3, code) + decode(kFormatE4m3, code + 1)) / 2;
    for (float v : {half, std::nextafter(half, 0.0f), std::nextafter(half, kInf), decode(kFormatE4m3, code)})
      values.push_back(v), values.push_back(-v);
  }
  const float one = 1.0f;
  const int64_t count = static_cast<int64_t>(values.size());
  Matrix got(Dtype::kE4m3, 1, count);
  const ConstView x(values.data(), Dtype::kF32, 1, count);
  cpu::quantize_static(x, &one, got.view(), 1);
  EXPECT_TRUE(same_bits(got.view(), expected(x, count, [](int64_t, float v) { return v; }).view()));
}

TEST_P(CpuQuantizeTest, EmptyMatrices) {
  float scale[1] = {-1.0f};
  const float one = 1.0f;
  uint8_t padding[4] = {9, 9, 9, 9};
  cpu::quantize_per_token(ConstView(&one, Dtype::kF32, 1, 0), View(padding, Dtype::kE4m3, 1, 4), scale, nullptr, 2);
  EXPECT_EQ(scale[0], kMinScale);
  EXPECT_EQ(padding[0] | padding[3], 0);
  cpu::quantize_weight(ConstView(&one, Dtype::kF32, 0, 4), Granularity::kPerTensor, View(padding, Dtype::kE4m3, 0, 4),
                       scale, "w", 2);
  EXPECT_EQ(scale[0], kMinScale);
}

}  // namespace
}  // namespace samebits
