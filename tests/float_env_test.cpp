// A caller's flush-to-zero or rounding mode never reaches the bits.
#include "numerics/float_env.h"

#include "place.h"
#include "samebits/fused.h"
#include "samebits/quantize.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace samebits::testing {
namespace {

// What a caller may have set: rounding toward zero, and on x86 subnormals flushed in and out
// (torch.set_flush_denormal).
class Disturbed {
 public:
  Disturbed() {
    std::fegetenv(&saved_);
    std::fesetround(FE_TOWARDZERO);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
  }
  ~Disturbed() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
};

HostProblem tiny_scales() {
  Random random{1};
  HostProblem p = random_problem(random, Order::kHopperPromoted, Data::kNormal, 33, 48, 272);
  for (float& s : p.scale_a) s *= 1e-20f;
  for (float& s : p.scale_b) s *= 1e-19f;  // products are bf16 subnormals
  return p;
}

TEST(FloatEnvTest, GemmIgnoresTheCallersEnvironment) {
  const HostProblem p = tiny_scales();
  for (int threads : {1, 2}) {
    Matrix want(p.out, 33, 48), got(p.out, 33, 48);
    gemm(p.on_host(want), {.threads = threads});
    {
      const Disturbed disturbed;
      gemm(p.on_host(got), {.threads = threads});
    }
    EXPECT_TRUE(same_bits(got.view(), want.view()));
  }
}

TEST(FloatEnvTest, QuantizersIgnoreTheCallersEnvironment) {
  Matrix x(Dtype::kF32, 5, 64), want(Dtype::kE4m3, 5, 64), got(Dtype::kE4m3, 5, 64);
  Random random{2};
  for (int64_t i = 0; i < 5 * 64; ++i)
    x.as<float>()[i] = static_cast<float>(random.uniform() - 0.5) * (i % 2 ? 1.0f : 1e-39f);
  std::vector<float> want_scale(5), got_scale(5);
  quantize_per_token(x.view(), want.view(), want_scale.data(), nullptr);
  const float scale = 3e-39f;
  Matrix want_static(Dtype::kE4m3, 5, 64), got_static(Dtype::kE4m3, 5, 64);
  quantize_static(x.view(), &scale, want_static.view());
  {
    const Disturbed disturbed;
    quantize_per_token(x.view(), got.view(), got_scale.data(), nullptr);
    quantize_static(x.view(), &scale, got_static.view());
  }
  EXPECT_TRUE(same_bits(got.view(), want.view()));
  EXPECT_EQ(std::memcmp(got_scale.data(), want_scale.data(), 5 * sizeof(float)), 0);  // NOLINT: bits are what counts
  EXPECT_TRUE(same_bits(got_static.view(), want_static.view()));
}

TEST(FloatEnvTest, NormAndSiluIgnoreTheCallersEnvironment) {
  Random random{3};
  Matrix x = float_matrix(random, Dtype::kF32, 5, 64, 64, false);
  for (int64_t i = 0; i < 5 * 64; i += 2) x.as<float>()[i] *= 1e-39f;
  const Matrix weight = float_matrix(random, Dtype::kF32, 1, 64, 64, false);
  const RmsNorm norm{x.view(), weight.view(), 1e-6f, {}, {}};
  for (int threads : {1, 2}) {
    const Launch launch{.threads = threads};
    Matrix want(Dtype::kF32, 5, 64), got = want, want_silu(Dtype::kF32, 5, 32), got_silu = want_silu;
    rms_norm(norm, want.view(), launch);
    silu_mul(x.view(), want_silu.view(), launch);
    {
      const Disturbed disturbed;
      rms_norm(norm, got.view(), launch);
      silu_mul(x.view(), got_silu.view(), launch);
    }
    EXPECT_TRUE(same_bits(got.view(), want.view()));
    EXPECT_TRUE(same_bits(got_silu.view(), want_silu.view()));
  }
}

TEST(FloatEnvTest, TheCallersEnvironmentIsGivenBack) {
  const HostProblem p = tiny_scales();
  Matrix out(p.out, 33, 48);
  std::fesetround(FE_UPWARD);
  gemm(p.on_host(out), {.threads = 1});
  const int mode = std::fegetround();
  std::fesetround(FE_TONEAREST);
  EXPECT_EQ(mode, FE_UPWARD);
}

// The control: the disturbance does change this arithmetic where no FloatEnv protects it.
TEST(FloatEnvTest, ControlTheDisturbanceIsReal) {
  volatile float a = 1e-20f, b = 1e-19f;
  const float plain = a * b;
  float disturbed = 0;
  {
    const Disturbed d;
    disturbed = a * b;
  }
  EXPECT_NE(plain, disturbed);
}

}  // namespace
}  // namespace samebits::testing
