// What only a GPU can get wrong: graphs, streams, threads, padded pointers, and quantizers against the CPU's.
#include <functional>
#include <thread>

#include "cuda/timing.h"
#include "place.h"
#include "samebits/quantize.h"

namespace samebits::testing {
namespace {

class CudaTest : public ::testing::TestWithParam<const DeviceInfo*> {
 protected:
  void SetUp() override { cuda::set_device(device().ordinal); }
  const DeviceInfo& device() const { return *GetParam(); }
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaTest);

// A captured graph replays the same bits, and reads its inputs anew at each replay.
TEST_P(CudaTest, GraphCaptureHasTheBitsOfEagerCalls) {
  Random random{1};
  for (int64_t m : {1, 33, 513}) {
    const Order order = orders_on(device()).front();
    const HostProblem p = random_problem(random, order, Data::kNormal, m, 1024, 512, Dtype::kF16, true);
    const Matrix eager = run(device(), p);
    OnDevice captured(device(), p);
    cuda::Stream stream;
    const Launch launch{.device = &device(), .stream = stream.get()};
    cuda::Replay graph(
        3, [&](int) { gemm(captured.problem(), launch); }, stream.get());
    graph.microseconds();
    EXPECT_TRUE(same_bits(captured.result().view(), eager.view())) << "m=" << m;
    HostProblem other = p;
    other.a = fp8_matrix(random, Data::kCancelling, m, 512);
    captured.renew(other.a);
    graph.microseconds();
    EXPECT_TRUE(same_bits(captured.result().view(), run(device(), other).view())) << "second replay, m=" << m;
  }
}

// Several threads, each with its own streams, all Orders and sizes mixed: every output compared.
TEST_P(CudaTest, ThreadsAndStreamsDoNotDisturbEachOther) {
  constexpr int kThreads = 4, kRounds = 40;
  std::vector<std::string> failures(kThreads);
  const auto work = [&](int t) {
    cuda::set_device(device().ordinal);
    Random random{static_cast<uint64_t>(100 + t)};
    cuda::Stream streams[2];
    for (int round = 0; round < kRounds; ++round) {
      const std::vector<Order> orders = orders_on(device());
      const Order order = orders[random.below(static_cast<uint32_t>(orders.size()))];
      const HostProblem p = random_problem(random, order, Data::kNormal, 1 + random.below(200),
                                           16 * (1 + random.below(40)), 16 * (1 + random.below(40)));
      Matrix want(p.out, p.a.rows, p.b.rows);
      gemm(p.on_host(want), {.threads = 1});
      OnDevice first(device(), p), second(device(), p);
      gemm(first.problem(), {.device = &device(), .stream = streams[0].get()});
      gemm(second.problem(), {.device = &device(), .stream = streams[1].get()});
      streams[0].synchronize();
      streams[1].synchronize();
      for (OnDevice* result : {&first, &second})
        if (const auto same = same_bits(result->result().view(), want.view()); !same)
          failures[static_cast<size_t>(t)] = same.message();
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) EXPECT_EQ(failure, "");
}

// Rows compared where they are: the rotation by first_row, the count and the first difference.
TEST_P(CudaTest, CompareRowsFindsWhatDiffers) {
  Matrix reference(Dtype::kBf16, 5, 48), got(Dtype::kBf16, 7, 48);
  for (int64_t r = 0; r < 5; ++r)
    for (int64_t c = 0; c < 48; ++c) reference.as<uint16_t>()[r * 48 + c] = static_cast<uint16_t>(100 * r + c);
  for (int64_t r = 0; r < 7; ++r) std::memcpy(got.view().at(r, 0), reference.view().at((r + 3) % 5, 0), 96);
  got.as<uint16_t>()[4 * 48 + 17] ^= 1;
  got.as<uint16_t>()[6 * 48 + 2] ^= 0x8000;
  cuda::Buffer g(got.bytes.size()), w(reference.bytes.size()), d(sizeof(cuda::Difference));
  g.upload(got.bytes.data(), got.bytes.size());
  w.upload(reference.bytes.data(), reference.bytes.size());
  cuda::Difference difference{0, UINT64_MAX};
  d.upload(&difference, sizeof difference);
  cuda::compare_rows(ConstView(g.data(), Dtype::kBf16, 7, 48), ConstView(w.data(), Dtype::kBf16, 5, 48), 3,
                     static_cast<cuda::Difference*>(d.data()), nullptr);
  d.download(&difference, sizeof difference);
  EXPECT_EQ(difference.count, 2u);
  EXPECT_EQ(difference.first, 4u * 48 + 17);
}

// ---- quantizers: the GPU's bits are the CPU's
// ------------------------------------------------------------------------

struct Device {
  const DeviceInfo* info;
  cuda::Buffer x, q, scale, bound;
  Device(const DeviceInfo& info, const Matrix& in, const Matrix& out, int64_t scales, const float* upper_bound)
      : info(&info),
        x(in.bytes.size()),
        q(out.bytes.size()),
        scale(sizeof(float) * static_cast<size_t>(scales)),
        bound(4) {
    x.upload(in.bytes.data(), in.bytes.size());
    q.upload(out.bytes.data(), out.bytes.size());
    if (upper_bound) bound.upload(upper_bound, 4);
  }
  float* scales() { return static_cast<float*>(scale.data()); }
};

View at(const cuda::Buffer& buffer, const Matrix& like) {
  return View(buffer.data(), like.dtype, like.rows, like.cols, like.row_stride);
}

TEST_P(CudaTest, QuantizersHaveTheBitsOfTheCpu) {
  struct Extent {
    int64_t rows, cols, stride;
  };
  // Ragged rows, whole vectors, a cluster for few rows, several vectors a thread for many, rows no block can keep.
  const std::vector<Extent> extents = {{9, 1, 6},           {9, 17, 22},         {9, 1024, 1029},
                                       {9, 1024, 1032},     {9, 5137, 5142},     {1, 8192, 8192},
                                       {64, 4096, 4104},    {300, 4096, 4096},   {3, 28672, 28672},
                                       {280, 14336, 14336}, {140, 32768, 32768}, {2, 300000, 300000}};
  Random random{7};
  const float bound = 1.5f;
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF32})
    for (bool all_patterns : {false, true})
      for (const Extent& extent : extents)
        for (const float* upper_bound : {static_cast<const float*>(nullptr), &bound}) {
          const int64_t rows = extent.rows, cols = extent.cols;
          const Matrix x = float_matrix(random, dtype, rows, cols, extent.stride, all_patterns);
          Matrix want(Dtype::kE4m3, rows, (cols + 15) / 16 * 16), got = want;
          std::vector<float> want_scale(static_cast<size_t>(rows)), got_scale(static_cast<size_t>(rows));
          const Launch launch{.device = &device()};
          const auto check = [&](Device& d, const char* what) {
            d.q.download(got.bytes.data(), got.bytes.size());
            d.scale.download(got_scale.data(), d.scale.size());
            EXPECT_TRUE(same_bits(got.view(), want.view())) << what << " " << name(dtype) << " cols=" << cols;
            EXPECT_EQ(std::memcmp(got_scale.data(), want_scale.data(), d.scale.size()), 0) << what;
          };
          quantize_per_token(x.view(), want.view(), want_scale.data(), upper_bound);
          Device token(device(), x, got, rows, upper_bound);
          quantize_per_token(at(token.x, x), at(token.q, got), token.scales(),
                             upper_bound ? static_cast<float*>(token.bound.data()) : nullptr, launch);
          check(token, "per token");

          const int64_t groups = groups_along(cols);
          for (bool power_of_two : {false, true}) {
            const auto scale_view = [&](float* data) { return View(data, Dtype::kF32, rows, groups, 1, rows + 1); };
            std::vector<float> want_groups(static_cast<size_t>((rows + 1) * groups)), got_groups = want_groups;
            quantize_per_group(x.view(), want.view(), {scale_view(want_groups.data()), power_of_two});
            Device group(device(), x, got, (rows + 1) * groups, nullptr);
            group.scale.upload(got_groups.data(), group.scale.size());
            quantize_per_group(at(group.x, x), at(group.q, got), {scale_view(group.scales()), power_of_two}, launch);
            group.q.download(got.bytes.data(), got.bytes.size());
            group.scale.download(got_groups.data(), group.scale.size());
            EXPECT_TRUE(same_bits(got.view(), want.view())) << "per group " << name(dtype) << " cols=" << cols;
            EXPECT_EQ(std::memcmp(got_groups.data(), want_groups.data(), group.scale.size()), 0) << "per group";
          }

          want_scale.assign(1, 0.0371f);
          quantize_static(x.view(), want_scale.data(), want.view());
          Device fixed(device(), x, got, 1, nullptr);
          fixed.scale.upload(want_scale.data(), 4);
          quantize_static(at(fixed.x, x), fixed.scales(), at(fixed.q, got), launch);
          got_scale.resize(1);
          check(fixed, "static");
        }
}

TEST_P(CudaTest, WeightQuantizersAndDequantizeHaveTheBitsOfTheCpu) {
  Random random{8};
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF32})
    for (Granularity granularity : {Granularity::kPerTensor, Granularity::kPerChannel, Granularity::kPerBlock}) {
      const int64_t rows = 165, cols = 333, scales = weight_scales(granularity, rows, cols);
      const Matrix w = float_matrix(random, dtype, rows, cols, cols, false);
      Matrix want(Dtype::kE4m3, rows, cols), got = want;
      std::vector<float> want_scale(static_cast<size_t>(scales)), got_scale(static_cast<size_t>(scales));
      quantize_weight(w.view(), granularity, want.view(), want_scale.data(), "w");
      Device d(device(), w, got, scales, nullptr);
      const Launch launch{.device = &device()};
      quantize_weight(at(d.x, w), granularity, at(d.q, got), d.scales(), "w", launch);
      d.q.download(got.bytes.data(), got.bytes.size());
      d.scale.download(got_scale.data(), d.scale.size());
      EXPECT_TRUE(same_bits(got.view(), want.view()));
      EXPECT_EQ(want_scale, got_scale);

      Matrix want_wide(dtype, rows, cols), got_wide = want_wide;
      const auto view = [&](const float* data) {
        return granularity == Granularity::kPerBlock ? Scales::blocks(data, 2, 3)
                                                     : row_scales(data, std::ssize(want_scale));
      };
      dequantize(want.view(), view(want_scale.data()), want_wide.view());
      cuda::Buffer out(got_wide.bytes.size());
      dequantize(at(d.q, got), view(d.scales()), at(out, got_wide), launch);
      out.download(got_wide.bytes.data(), out.size());
      EXPECT_TRUE(same_bits(got_wide.view(), want_wide.view()));
    }
}

// A call with Overlap::kWeight fetches its weight before the call right before it has ended. What wrote the weight one
// call earlier must have ended by then, whatever row runs between: that row may let the next kernel start early only
// after its own wait. (CUTLASS's pingpong kernel does so before it, and is launched plainly: sm90.cuh.)
class WeightWrittenBeforeTest : public CudaTest {
 protected:
  // A quantizer that leaves the reader room beside it and is slow: a block of its own for each long row, whose odd
  // stride allows no vectors.
  static constexpr int64_t kM = 8, kN = 128, kK = 16384;
  static constexpr std::string_view kReader = "r64x8";

  void SetUp() override {
    CudaTest::SetUp();
    if (device().arch != 90) GTEST_SKIP() << "only Hopper's Ring rows fetch a weight early";
    for (Matrix& source : sources_) source = float_matrix(random_, Dtype::kBf16, kN, kK, kK + 1, false);
  }

  /// How often `rounds` calls that read the weight have other bits than the weight that was written last: quantized
  /// from one of two sources in turn, and then `between` runs.
  int wrong_rounds(int rounds, const std::function<void(const Launch&)>& between) {
    HostProblem p = random_problem(random_, Order::kHopperFast, Data::kNormal, kM, kN, kK);
    std::vector<Matrix> want;
    cuda::Buffer on_gpu[2] = {cuda::Buffer(sources_[0].bytes.size()), cuda::Buffer(sources_[1].bytes.size())};
    for (int i = 0; i < 2; ++i) {
      std::vector<float> scale(kN);
      quantize_per_token(sources_[i].view(), p.b.view(), scale.data(), nullptr);
      want.push_back(expected_on(device(), p));
      on_gpu[i].upload(sources_[i].bytes.data(), sources_[i].bytes.size());
    }
    EXPECT_FALSE(same_bits(want[0].view(), want[1].view()));
    OnDevice reader(device(), p);
    const View weight(const_cast<void*>(reader.problem().b.data), Dtype::kE4m3, kN, kK);
    cuda::Buffer scratch(kN * sizeof(float));
    cuda::Stream stream;
    int wrong = 0;
    for (int round = 0; round < rounds; ++round) {
      Launch launch{.device = &device(), .stream = stream.get()};
      quantize_per_token(at(on_gpu[round % 2], sources_[round % 2]), weight, static_cast<float*>(scratch.data()),
                         nullptr, launch);
      between(launch);
      launch.overlap = Overlap::kWeight;
      gemm(reader.problem(), choose_named(device(), kReader, kM, kN, kK), launch);
      stream.synchronize();
      wrong += !same_bits(reader.result().view(), want[static_cast<size_t>(round % 2)].view());
    }
    return wrong;
  }

  Random random_{9};

 private:
  Matrix sources_[2] = {Matrix(Dtype::kBf16, 0, 0), Matrix(Dtype::kBf16, 0, 0)};
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(WeightWrittenBeforeTest);

TEST_P(WeightWrittenBeforeTest, TwoCallsBeforeIsSeenWhateverRunsBetween) {
  for (Order order : orders_on(device())) {
    const HostProblem small = random_problem(random_, order, Data::kNormal, 4, 64, 64);
    OnDevice on_device(device(), small);
    for (std::string_view kernel : rows(device(), order)) {
      const Plan plan = choose_named(device(), kernel, 4, 64, 64);
      const auto between = [&](const Launch& launch) { gemm(on_device.problem(), plan, launch); };
      EXPECT_EQ(wrong_rounds(10, between), 0) << kernel << " between";
    }
  }
}

// The control: right after the quantizer, whose writes have not ended when the weight is fetched, it must be seen to
// happen. What Overlap::kWeight forbids.
TEST_P(WeightWrittenBeforeTest, ControlOneCallBeforeIsTooLate) {
  EXPECT_GT(wrong_rounds(100, [](const Launch&) {}), 0);
}

INSTANTIATE_TEST_SUITE_P(On, CudaTest, ::testing::ValuesIn(gpus()), place_name);
INSTANTIATE_TEST_SUITE_P(On, WeightWrittenBeforeTest, ::testing::ValuesIn(gpus()), place_name);

}  // namespace
}  // namespace samebits::testing
