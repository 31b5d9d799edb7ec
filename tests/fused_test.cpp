// rms_norm, silu_mul and their fused quantizers on every backend: the bits of the reference, whatever the shape of the
// row, the batch and the strides.
#include "samebits/fused.h"

#include "numerics/fused.h"
#include "place.h"
#include "samebits/quantize.h"

namespace samebits::testing {
namespace {

constexpr Dtype kFloats[] = {Dtype::kBf16, Dtype::kF16, Dtype::kF32};

// A matrix of the test on the device, or where it is.
class Operand {
 public:
  Operand(const DeviceInfo& device, const Matrix& host) : host_(host), on_cpu_(device.is_cpu()) {
    if (on_cpu_ || host.bytes.empty()) return;
    buffer_ = cuda::Buffer(host.bytes.size());
    buffer_.upload(host.bytes.data(), host.bytes.size());
  }
  View view() {
    View v = host_.view();
    if (!on_cpu_) v.data = buffer_.data();
    return v;
  }
  Matrix result() {
    if (!on_cpu_ && buffer_.size()) buffer_.download(host_.bytes.data(), host_.bytes.size());
    return host_;
  }

 private:
  Matrix host_;
  bool on_cpu_;
  cuda::Buffer buffer_;
};

struct Quantized {
  Matrix q, scale;
};

// What a producer of q and scales gives for `rows` rows on the device.
template <class Produce>
Quantized quantized(const DeviceInfo& device, int64_t rows, int64_t columns, const Produce& produce) {
  Operand q(device, Matrix(Dtype::kE4m3, rows, columns)), scale(device, Matrix(Dtype::kF32, rows, 1));
  produce(q.view(), static_cast<float*>(scale.view().data));
  return {q.result(), scale.result()};
}

class FusedTest : public ::testing::TestWithParam<const DeviceInfo*> {
 protected:
  void SetUp() override {
    if (!device().is_cpu()) cuda::set_device(device().ordinal);
  }
  const DeviceInfo& device() const { return *GetParam(); }
  Launch launch(Overlap overlap = Overlap::kLaunch) const { return {.device = &device(), .overlap = overlap}; }

  // quantize_per_group on the CPU of what the reference gives; `produce` is called for q and scales.
  template <class Produce>
  void expect_groups(const Matrix& y, int64_t columns, const Produce& produce) const {
    const int64_t groups = groups_along(y.cols);
    for (bool power_of_two : {false, true}) {
      Matrix want(Dtype::kE4m3, y.rows, columns), want_scale(Dtype::kF32, y.rows, groups);
      quantize_per_group(y.view(), want.view(), {want_scale.view(), power_of_two});
      Operand q(device(), Matrix(Dtype::kE4m3, y.rows, columns)), scale(device(), Matrix(Dtype::kF32, y.rows, groups));
      produce(q.view(), GroupScales{scale.view(), power_of_two});
      EXPECT_TRUE(same_bits(q.result().view(), want.view())) << name(y.dtype) << " [" << y.rows << "," << y.cols << "]";
      EXPECT_TRUE(same_bits(scale.result().view(), want_scale.view())) << name(y.dtype) << " " << y.cols;
    }
  }

  // quantize_per_token on the CPU of what the reference gives.
  void expect_quantized(const Quantized& got, const Matrix& y, const float* bound) const {
    Matrix q(Dtype::kE4m3, y.rows, got.q.cols), scale(Dtype::kF32, y.rows, 1);
    quantize_per_token(y.view(), q.view(), scale.as<float>(), bound);
    EXPECT_TRUE(same_bits(got.q.view(), q.view())) << name(y.dtype) << " [" << y.rows << "," << y.cols << "]";
    EXPECT_TRUE(same_bits(got.scale.view(), scale.view())) << name(y.dtype) << " [" << y.rows << "," << y.cols << "]";
  }
};

// Rows and columns that meet each way a GPU reads a row: whole vectors and ragged ones, one block and a cluster, one to
// four vectors a thread, kept in registers and read again; CPU tests are the short ones.
struct Extent {
  int64_t rows, cols, stride;
};
std::vector<Extent> extents(const DeviceInfo& device) {
  std::vector<Extent> all = {{3, 1, 1}, {2, 7, 7}, {5, 64, 64}, {4, 129, 136}, {3, 1000, 1000}, {2, 2048, 2056}};
  if (!device.is_cpu())
    for (const Extent& e : {Extent{0, 64, 64},
                            {1, 4096, 4096},
                            {8, 5120, 5128},
                            {7, 6144, 6144},
                            {64, 4096, 4096},
                            {300, 4096, 4096},
                            {300, 2048, 2048},
                            {280, 11008, 11008},
                            {1, 28672, 28672},
                            {140, 28672, 28672},
                            {2, 32768, 32768},
                            {3, 100000, 100000},
                            {2, 40001, 40001}})
      all.push_back(e);
  return all;
}

TEST_P(FusedTest, RmsNormAndItsQuantizerHaveTheBitsOfTheReference) {
  Random random{1};
  for (Dtype dtype : kFloats)
    for (const Extent& e : extents(device()))
      for (bool all_patterns : {false, true})
        for (bool add : {false, true}) {
          if (all_patterns && e.cols > 200) continue;  // nothing but NaN
          const Matrix x = float_matrix(random, dtype, e.rows, e.cols, e.stride, all_patterns);
          const Matrix weight = float_matrix(random, dtype, 1, e.cols, e.cols, false);
          const Matrix residual = float_matrix(random, dtype, e.rows, e.cols, e.stride, all_patterns);
          Matrix h = residual, want(dtype, e.rows, e.cols);
          RmsNorm host{x.view(), weight.view(), 1e-5f, {}, {}};
          if (add) host.residual = h.view(), host.residual_out = h.view();
          reference_rms_norm(host, want.view());

          Operand xs(device(), x), weights(device(), weight);
          const auto norm = [&](Operand& residuals) {
            RmsNorm n{xs.view(), weights.view(), 1e-5f, {}, {}};
            if (add) n.residual = residuals.view(), n.residual_out = residuals.view();
            return n;
          };
          Operand sum(device(), residual), y(device(), Matrix(dtype, e.rows, e.cols));
          rms_norm(norm(sum), y.view(), launch());
          ASSERT_TRUE(same_bits(y.result().view(), want.view())) << name(dtype) << " " << e.cols << " add " << add;
          ASSERT_TRUE(same_bits(sum.result().view(), h.view())) << name(dtype) << " " << e.cols;

          Operand again(device(), residual);
          const int64_t columns = (e.cols + 15) / 16 * 16 + 16;
          expect_quantized(quantized(device(), e.rows, columns,
                                     [&](View q, float* scale) {
                                       rms_norm_quantize(norm(again), q, scale, nullptr, launch(Overlap::kWeight));
                                     }),
                           want, nullptr);
          ASSERT_TRUE(same_bits(again.result().view(), h.view())) << name(dtype) << " " << e.cols;
          expect_groups(want, columns, [&](View q, const GroupScales& scales) {
            Operand third(device(), residual);
            rms_norm_quantize_per_group(norm(third), q, scales, launch());
          });
        }
}

TEST_P(FusedTest, SiluMulAndItsQuantizerHaveTheBitsOfTheReference) {
  Random random{2};
  Matrix bound(Dtype::kF32, 1, 1);
  *bound.as<float>() = 0.75f;
  Operand bounds(device(), bound);
  for (Dtype dtype : kFloats)
    for (const Extent& e : extents(device()))
      for (bool all_patterns : {false, true})
        for (bool bounded : {false, true}) {
          const Matrix x = float_matrix(random, dtype, e.rows, 2 * e.cols, e.cols + e.stride, all_patterns);
          Matrix want(dtype, e.rows, e.cols);
          reference_silu_mul(x.view(), want.view());
          Operand xs(device(), x), y(device(), Matrix(dtype, e.rows, e.cols));
          silu_mul(xs.view(), y.view(), launch());
          ASSERT_TRUE(same_bits(y.result().view(), want.view())) << name(dtype) << " " << e.cols;
          const float* upper = bounded ? static_cast<const float*>(bounds.view().data) : nullptr;
          expect_quantized(quantized(device(), e.rows, (e.cols + 15) / 16 * 16,
                                     [&](View q, float* scale) {
                                       silu_mul_quantize(xs.view(), q, scale, upper, launch(Overlap::kNone));
                                     }),
                           want, bounded ? bound.as<float>() : nullptr);
          expect_groups(want, (e.cols + 15) / 16 * 16, [&](View q, const GroupScales& scales) {
            silu_mul_quantize_per_group(xs.view(), q, scales, launch());
          });
        }
}

// Every gate of 16 bits and FP32 gates over all exponents.
TEST_P(FusedTest, SiluOfEveryGate) {
  for (Dtype dtype : kFloats) {
    Matrix x(dtype, 64, 2048), want(dtype, 64, 1024);
    for (int64_t r = 0; r < 64; ++r)
      for (int64_t c = 0; c < 1024; ++c) {
        const int64_t i = r * 1024 + c;
        const uint32_t bits = static_cast<uint32_t>(dtype == Dtype::kF32 ? i * 65537 : i);
        std::memcpy(x.view().at(r, c), &bits, size_of(dtype));
        store(dtype, x.view().at(r, 1024 + c), 1.0f);
      }
    reference_silu_mul(x.view(), want.view());
    Operand xs(device(), x), y(device(), Matrix(dtype, 64, 1024));
    silu_mul(xs.view(), y.view(), launch());
    EXPECT_TRUE(same_bits(y.result().view(), want.view())) << name(dtype);
  }
}

TEST_P(FusedTest, BatchSizeAndPositionNeverChangeARow) {
  Random random{3};
  const int64_t cols = device().is_cpu() ? 512 : 4096, most = device().is_cpu() ? 40 : 600;
  const Matrix x = float_matrix(random, Dtype::kBf16, most, cols, cols, false);
  const Matrix weight = float_matrix(random, Dtype::kBf16, 1, cols, cols, false);
  Operand xs(device(), x), weights(device(), weight);
  const auto some = [&](int64_t first, int64_t count) {
    return quantized(device(), count, cols, [&](View q, float* scale) {
      rms_norm_quantize({xs.view().slice_rows(first, count), weights.view(), 1e-6f, {}, {}}, q, scale, nullptr,
                        launch());
    });
  };
  const Quantized all = some(0, most);
  for (int64_t first : {int64_t{0}, int64_t{5}, most - 1})
    for (int64_t count : {1, 2, 16, 17, 33, 64, 65, 130, 300}) {
      if (first + count > most) continue;
      const Quantized part = some(first, count);
      EXPECT_TRUE(same_bits(part.q.view(), all.q.view().slice_rows(first, count))) << first << " " << count;
      EXPECT_TRUE(same_bits(part.scale.view(), all.scale.view().slice_rows(first, count))) << first << " " << count;
    }
}

// A row of zeros without epsilon is NaN, 0 * infinity; the padding after it is zero all the same.
TEST_P(FusedTest, PaddingIsZeroWhateverTheRow) {
  for (Dtype dtype : kFloats)
    for (int64_t cols : {64, 100, 4096}) {
      Matrix zeros(dtype, 2, cols), weight(dtype, 1, cols), want(Dtype::kE4m3, 2, cols + 28);
      std::fill(zeros.bytes.begin(), zeros.bytes.end(), std::byte{0});
      for (int64_t c = 0; c < cols; ++c) store(dtype, weight.view().at(0, c), 1.0f);
      for (int64_t r = 0; r < 2; ++r)
        for (int64_t c = 0; c < want.cols; ++c) *static_cast<uint8_t*>(want.view().at(r, c)) = c < cols ? 0x7f : 0;
      Operand xs(device(), zeros), weights(device(), weight);
      const Quantized got = quantized(device(), 2, want.cols, [&](View q, float* scale) {
        rms_norm_quantize({xs.view(), weights.view(), 0.0f, {}, {}}, q, scale, nullptr, launch());
      });
      EXPECT_TRUE(same_bits(got.q.view(), want.view())) << name(dtype) << " " << cols;
      EXPECT_EQ(load(Dtype::kF32, got.scale.view().at(1, 0)), kMinScale);
    }
}

// The sum of a norm may go over x instead of the residual.
TEST_P(FusedTest, ResidualOutMayBeX) {
  Random random{4};
  const Matrix x = float_matrix(random, Dtype::kBf16, 9, 1024, 1024, false);
  const Matrix residual = float_matrix(random, Dtype::kBf16, 9, 1024, 1024, false);
  const Matrix weight = float_matrix(random, Dtype::kBf16, 1, 1024, 1024, false);
  Matrix h(Dtype::kBf16, 9, 1024), want(Dtype::kBf16, 9, 1024);
  reference_rms_norm({x.view(), weight.view(), 1e-6f, residual.view(), h.view()}, want.view());
  Operand xs(device(), x), residuals(device(), residual), weights(device(), weight), y(device(), want);
  rms_norm({xs.view(), weights.view(), 1e-6f, residuals.view(), xs.view()}, y.view(), launch());
  EXPECT_TRUE(same_bits(y.result().view(), want.view()));
  EXPECT_TRUE(same_bits(xs.result().view(), h.view()));
  EXPECT_TRUE(same_bits(residuals.result().view(), residual.view()));
}

// norm -> GEMM -> SiLU -> GEMM -> norm, again and again with other tokens in the same buffers: a kernel that read
// before the one in front of it had written, or wrote before that one had read, would give another step's bits.
TEST_P(FusedTest, AChainOfDependentLaunchesHasTheBitsOfItsSteps) {
  constexpr int kSteps = 24;
  const int64_t k = device().is_cpu() ? 64 : 1024;
  Random random{5};
  const Matrix weight = float_matrix(random, Dtype::kBf16, 1, k, k, false);
  const Matrix up = fp8_matrix(random, Data::kNormal, 2 * k, k), down = fp8_matrix(random, Data::kNormal, k, k);
  Matrix scale(Dtype::kF32, 1, 1);
  *scale.as<float>() = 0.01f;

  // One step from x to q, with everything on one device.
  struct Chain {
    Operand weight, up, down, scale, token_scale, q, wide, half, narrow, sum;
    Chain(const DeviceInfo& d, int64_t m, int64_t k, const Matrix& weight, const Matrix& up, const Matrix& down,
          const Matrix& scale)
        : weight(d, weight),
          up(d, up),
          down(d, down),
          scale(d, scale),
          token_scale(d, Matrix(Dtype::kF32, m, 1)),
          q(d, Matrix(Dtype::kE4m3, m, k)),
          wide(d, Matrix(Dtype::kBf16, m, 2 * k)),
          half(d, Matrix(Dtype::kE4m3, m, k)),
          narrow(d, Matrix(Dtype::kBf16, m, k)),
          sum(d, Matrix(Dtype::kBf16, m, k)) {}
    void step(View x, View out, const Launch& launch) {
      float* tokens = static_cast<float*>(token_scale.view().data);
      const auto multiply = [&](View a, View b, View to) {
        GemmProblem p;
        p.a = a, p.b = b, p.out = to;
        p.scale_a = Scales::per_row(tokens, a.rows);
        p.scale_b = Scales::per_tensor(static_cast<const float*>(scale.view().data));
        gemm(p, launch);
      };
      rms_norm_quantize({x, weight.view(), 1e-6f, {}, {}}, q.view(), tokens, nullptr, launch);
      multiply(q.view(), up.view(), wide.view());
      silu_mul_quantize(wide.view(), half.view(), tokens, nullptr, launch);
      multiply(half.view(), down.view(), narrow.view());
      rms_norm_quantize({narrow.view(), weight.view(), 1e-6f, x, sum.view()}, out, tokens, nullptr, launch);
    }
  };

  std::optional<cuda::Stream> stream;
  if (!device().is_cpu()) stream.emplace();
  for (int64_t m : {1, 17, 200})
    for (Overlap overlap : {Overlap::kNone, Overlap::kLaunch, Overlap::kWeight, Overlap::kChain}) {
      Chain chain(device(), m, k, weight, up, down, scale), host(cpu_device(), m, k, weight, up, down, scale);
      Launch launch = this->launch(overlap);
      if (stream) launch.stream = stream->get();
      std::vector<Matrix> tokens;
      std::vector<Operand> x, out;
      for (int i = 0; i < kSteps; ++i) {
        tokens.push_back(float_matrix(random, Dtype::kBf16, m, k, k, false));
        x.emplace_back(device(), tokens.back());
        out.emplace_back(device(), Matrix(Dtype::kE4m3, m, k));
      }
      for (size_t i = 0; i < kSteps; ++i) chain.step(x[i].view(), out[i].view(), launch);
      if (stream) stream->synchronize();
      for (size_t i = 0; i < kSteps; ++i) {
        Matrix want(Dtype::kE4m3, m, k);
        host.step(tokens[i].view(), want.view(), {});
        ASSERT_TRUE(same_bits(out[i].result().view(), want.view()))
            << "m=" << m << " step " << i << " overlap " << static_cast<int>(overlap);
      }
    }
}

INSTANTIATE_TEST_SUITE_P(On, FusedTest, ::testing::ValuesIn(places()), place_name);

TEST(FusedInputTest, BadInputIsRefusedWithTheNumbers) {
  Matrix x(Dtype::kBf16, 3, 64), weight(Dtype::kBf16, 1, 64), other(Dtype::kF16, 3, 64), q(Dtype::kE4m3, 3, 32);
  std::vector<float> scale(3);
  const RmsNorm norm{x.view(), weight.view(), 1e-6f, {}, {}};
  const auto with = [&](auto change) {
    RmsNorm n = norm;
    change(n);
    return n;
  };
  const auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kBadInput);
      return e.what();
    }
    return "accepted";
  };
  const auto norm_says = [&](auto change) { return message([&] { rms_norm(with(change), x.view()); }); };
  EXPECT_EQ(norm_says([&](RmsNorm& n) { n.weight = weight.view().slice_cols(0, 32); }),
            "weight is [1,32] bf16; it must be [1,64] bf16");
  EXPECT_EQ(norm_says([&](RmsNorm& n) { n.residual = x.view(), n.residual_out = other.view(); }),
            "residual_out is [3,64] fp16; it must be [3,64] bf16");
  EXPECT_EQ(norm_says([&](RmsNorm& n) { n.residual = x.view(); }),
            "residual_out is [0,0] e4m3; it must be [3,64] bf16");
  EXPECT_EQ(norm_says([&](RmsNorm& n) { n.residual_out = x.view(); }), "residual_out without a residual");
  EXPECT_EQ(message([&] { rms_norm(norm, other.view()); }), "y is [3,64] fp16; it must be [3,64] bf16");
  EXPECT_EQ(message([&] { rms_norm_quantize(norm, q.view(), scale.data(), nullptr); }),
            "q is [3,32] for an input of [3,64]");
  EXPECT_EQ(message([&] { silu_mul_quantize(x.view(), q.view(), nullptr, nullptr); }),
            "scale: null pointer for 3 rows");
  EXPECT_EQ(message([&] { silu_mul(x.view().slice_cols(0, 63), x.view()); }),
            "x is [3,63]; it must have an even number of columns, gate and up");
  EXPECT_EQ(message([&] { silu_mul(q.view(), x.view()); }), "x is e4m3; it must be bf16, fp16 or fp32");
}

}  // namespace
}  // namespace samebits::testing
