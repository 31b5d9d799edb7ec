// The proof itself: it passes on sound schedules, it catches broken ones with coordinates, its control has power, and
// its digest is a function of the weights, the seed and the contract alone.
#include "samebits/verify.h"

#include <xxhash.h>

#include "cli/verify.h"
#include "core/generator.h"
#include "core/shapes.h"
#include "core/verify_layer.h"
#include "files.h"
#include "numerics/reference.h"
#include "place.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

using namespace samebits::testing;

/// A small model: per-channel and per-tensor scales, dynamic and static activations, a bias, sizes that need padding.
struct TinyModel {
  std::vector<RandomWeight> weights;
  std::vector<float> one_scale = {0.0009765625f}, input_scale = {0.03125f}, bias;
  std::vector<VerifyLayer> layers;

  TinyModel() {
    for (auto [n, k] : {std::pair<int64_t, int64_t>{48, 288}, {40, 300}, {64, 320}})
      weights.push_back(generate_weight(generator_key(1, "tiny" + std::to_string(n)), n, k, 1));
    for (int i = 0; i < 40; ++i) bias.push_back(static_cast<float>(i - 20) * 0.3f);
    layers.push_back({"z.dynamic", view(0, 48, 288), weights[0].scale, {}, {}, {}});
    layers.push_back(
        {"b.padded", view(1, 40, 300), weights[1].scale, {}, ConstView(bias.data(), Dtype::kF32, 1, 40), {}});
    layers.push_back({"m.static", view(2, 64, 320), one_scale, input_scale, {}, {}});
  }
  ConstView view(size_t i, int64_t n, int64_t k) const {
    return ConstView(weights[i].codes.data(), Dtype::kE4m3, n, k);
  }
};

VerifyOptions quick(const DeviceInfo* device = &cpu_device()) {
  VerifyOptions options;
  options.device = device;
  options.batches = {1, 2, 17};
  return options;
}

TEST(VerifyTest, WindowsPutPoolRowZeroFirstInTheMiddleAndLast) {
  EXPECT_EQ(positions(1), (std::vector<int64_t>{0}));
  EXPECT_EQ(positions(2), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(positions(17), (std::vector<int64_t>{0, 8, 16}));
  EXPECT_EQ(default_batches(cpu_device()), (std::vector<int64_t>{1, 2, 8, 16, 17, 32, 64, 65}));
}

// samebits/verify.h defines these numbers; splitmix64's first outputs from state 0 are published.
TEST(VerifyTest, GeneratorIsTheDocumentedOne) {
  EXPECT_EQ(mix(0x9e3779b97f4a7c15ull), 0xe220a8397b1dcdafull);
  EXPECT_EQ(mix(2 * 0x9e3779b97f4a7c15ull), 0x6e789e6aa1b965f4ull);
  EXPECT_EQ(generator_key(7, "layer"), mix(7 + XXH3_64bits("layer", 5)));
  EXPECT_EQ(generated_integer(0, 0, 0, 4), 0xe220 + 0xa839 + 0x7b1d + 0xcdaf - 131070);
  const std::vector<float> x = generate_activations(9, 3, 2048, 2);
  double sum = 0, squares = 0;
  int ordinary = 0, outliers = 0;
  for (int64_t row = 0; row < 3; ++row)
    for (int64_t col = 0; col < 2048; ++col) {
      const uint64_t h = mix(9 ^ ~static_cast<uint64_t>(col));
      const float gain = h % 512 == 0 ? 64.0f : h % 64 == 0 ? 16.0f : 1.0f;
      const float want = static_cast<float>(generated_integer(9, row, col, 2048)) * gain / 32768.0f;
      ASSERT_EQ(x[static_cast<size_t>(row * 2048 + col)], want);
      gain == 1.0f ? ++ordinary : ++outliers;
      if (gain == 1.0f) sum += want, squares += want * want;
    }
  EXPECT_GT(outliers, 0);
  EXPECT_LT(std::abs(sum / ordinary), 0.1);
  EXPECT_NEAR(squares / ordinary, 4.0 / 3.0, 0.1);
}

class VerifyPlaces : public ::testing::TestWithParam<const DeviceInfo*> {};
INSTANTIATE_TEST_SUITE_P(Places, VerifyPlaces, ::testing::ValuesIn(places()), place_name);

TEST_P(VerifyPlaces, SoundSchedulesPassAndTheControlIsCaught) {
  const TinyModel model;
  for (bool all : {false, true}) {
    VerifyOptions options = quick(GetParam());
    options.batches.clear();
    options.all_kernels = all;
    const VerifyReport report = verify(model.layers, options);
    EXPECT_TRUE(report.passed());
    EXPECT_EQ(report.compared.differing, 0u);
    EXPECT_TRUE(report.control_caught);
    EXPECT_GT(report.sample.outputs, 0u);
    ASSERT_EQ(report.results.size(), 6u);
    for (const VerifyResult& r : report.results) {
      EXPECT_GT(r.control.differing, 0u) << r.layer << " " << name(r.order);
      EXPECT_EQ(r.control.outputs, static_cast<uint64_t>(2 * kDigestRows * r.n));
      uint64_t rows = 0;
      for (int64_t m : report.batches) rows += static_cast<uint64_t>(m) * positions(m).size();
      const uint64_t once = 2 * rows * static_cast<uint64_t>(r.n);
      if (all)
        EXPECT_GE(r.batches.outputs, once);
      else
        EXPECT_EQ(r.batches.outputs, once);
      EXPECT_FALSE(r.kernels.empty());
    }
    EXPECT_EQ(report.results[0].layer, "b.padded");
    EXPECT_EQ(report.results[5].layer, "z.dynamic");
  }
}

// From the text of samebits/verify.h and docs/contract.md, one output at a time with the scalar reference.
uint64_t digest_by_definition(const VerifyLayer& layer, Order order, uint64_t seed) {
  const int64_t n = layer.weight.rows, k = layer.weight.cols;
  const std::vector<float> x = generate_activations(generator_key(seed, layer.name), kDigestRows, k, 1);
  Matrix q(Dtype::kE4m3, kDigestRows, k);
  std::vector<float> scale_a(kDigestRows);
  for (int64_t row = 0; row < kDigestRows; ++row) {
    float largest = 0;
    for (int64_t col = 0; col < k; ++col) largest = std::max(largest, std::abs(x[static_cast<size_t>(row * k + col)]));
    scale_a[static_cast<size_t>(row)] =
        layer.input_scale.empty() ? std::max(largest / 448.0f, 1.0f / (448.0f * 512.0f)) : layer.input_scale[0];
    for (int64_t col = 0; col < k; ++col) {
      const float s = scale_a[static_cast<size_t>(row)], value = x[static_cast<size_t>(row * k + col)];
      const float scaled = layer.input_scale.empty() ? value / s : value * (1.0f / s);
      store(Dtype::kE4m3, q.view().at(row, col), std::clamp(scaled, -448.0f, 448.0f));
    }
  }
  std::vector<uint16_t> outputs;
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16})
    for (int64_t row = 0; row < kDigestRows; ++row)
      for (int64_t col = 0; col < n; ++col) {
        uint32_t rounded = 0, out = 0;
        if (layer.bias) store(dtype, &rounded, load(layer.bias.dtype, layer.bias.at(0, col)));
        const float bias = load(dtype, &rounded);
        const float scale_b = layer.weight_scale[layer.weight_scale.size() == 1 ? 0 : static_cast<size_t>(col)];
        const float acc = reference_accumulate(spec(order), q.view(), row, layer.weight, col);
        store(dtype, &out,
              reference_epilogue(acc, scale_a[static_cast<size_t>(row)], scale_b, layer.bias ? &bias : nullptr));
        outputs.push_back(static_cast<uint16_t>(out));
      }
  return XXH3_64bits(outputs.data(), outputs.size() * sizeof(uint16_t));
}

TEST_P(VerifyPlaces, DigestIsDefinedByTheContractAlone) {
  const TinyModel model;
  VerifyOptions options = quick(GetParam());
  options.seed = 5;
  options.orders = {Order::kHopperPromoted, Order::kHopperFast};
  const VerifyReport report = verify(model.layers, options);
  std::vector<uint64_t> digests;
  for (const VerifyResult& r : report.results) {
    const auto layer =
        std::find_if(model.layers.begin(), model.layers.end(), [&](auto& l) { return l.name == r.layer; });
    EXPECT_EQ(r.digest, digest_by_definition(*layer, r.order, 5)) << r.layer << " " << name(r.order);
    digests.push_back(r.digest);
  }
  EXPECT_EQ(report.results[0].order, Order::kHopperPromoted);
  EXPECT_EQ(report.digest, XXH3_64bits(digests.data(), digests.size() * sizeof(uint64_t)));
}

// The number itself, so that no change of the generator, the contract or the hash goes unnoticed. It holds on every
// device: if it changes, published digests become worthless, and the reason belongs in docs/contract.md.
TEST_P(VerifyPlaces, DigestIsTheGoldenOneWhateverTheBatchesThreadsDtypeOrderAndLayerOrder) {
  constexpr uint64_t kGolden = 0xae22d3135238b331ull;
  TinyModel model;
  EXPECT_EQ(verify(model.layers, quick(GetParam())).digest, kGolden);
  std::reverse(model.layers.begin(), model.layers.end());
  VerifyOptions options = quick(GetParam());
  options.batches = {9};
  options.threads = 1;
  options.dtypes = {Dtype::kF16, Dtype::kBf16};
  options.all_kernels = true;
  EXPECT_EQ(verify(model.layers, options).digest, kGolden);
  options.seed = 1;
  EXPECT_NE(verify(model.layers, options).digest, kGolden);
}

// DESIGN.md, traps: fast and staged accumulation mixed by M in one dispatch.
TEST_P(VerifyPlaces, AScheduleThatDependsOnMIsCaughtWithCoordinates) {
  const TinyModel model;
  VerifyOptions options = quick(GetParam());
  options.orders = {Order::kHopperFast};
  options.schedule = [](const GemmProblem& problem, const Plan& plan, const Launch& launch) {
    GemmProblem other = problem;
    other.order = Order::kHopperPromoted;
    problem.m() < 17 ? gemm(problem, plan, launch) : gemm(other, launch);
  };
  const VerifyReport report = verify(model.layers, options);
  EXPECT_FALSE(report.passed());
  EXPECT_TRUE(report.control_caught);
  EXPECT_GT(report.compared.differing, 0u);
  EXPECT_EQ(report.sample.differing, 0u);
  for (const VerifyResult& r : report.results) {
    ASSERT_TRUE(r.first) << r.layer;
    EXPECT_EQ(r.first->batch, 17);
    EXPECT_NE(r.first->got, r.first->want);
    EXPECT_GT(r.first->ulps, 0);
    EXPECT_LT(r.first->col, r.n);
  }
}

TEST_P(VerifyPlaces, ARowThatIsNeverWrittenIsCaught) {
  const TinyModel model;
  VerifyOptions options = quick(GetParam());
  options.orders = {Order::kHopperFast};
  options.dtypes = {Dtype::kBf16};
  options.schedule = [](const GemmProblem& problem, const Plan&, const Launch& launch) {
    GemmProblem fewer = problem;
    const int64_t rows = problem.m() == 17 ? 16 : problem.m();
    fewer.a = problem.a.slice_rows(0, rows);
    fewer.out = problem.out.slice_rows(0, rows);
    if (!problem.scale_a.is_per_tensor()) fewer.scale_a.rows = rows;
    gemm(fewer, launch);
  };
  const VerifyReport report = verify(model.layers, options);
  for (const VerifyResult& r : report.results) {
    EXPECT_GE(r.batches.differing, static_cast<uint64_t>(3 * (r.n - 1)));  // one row in each of three windows
    ASSERT_TRUE(r.first);
    EXPECT_EQ(r.first->row, 16);
    EXPECT_EQ(r.first->got, 0xa5a5u);
  }
}

TEST(VerifyTest, OneWrongOutputIsFoundWhereItIs) {
  const TinyModel model;
  VerifyOptions options = quick();
  options.batches = {8};
  options.dtypes = {Dtype::kF16};
  options.orders = {Order::kHopperFast};
  int windows = 0;
  options.schedule = [&](const GemmProblem& problem, const Plan& plan, const Launch& launch) {
    gemm(problem, plan, launch);
    if (problem.m() == 8 && windows++ == 1) *static_cast<uint16_t*>(problem.out.at(6, 5)) ^= 4;
  };
  const VerifyReport report = verify(std::span(model.layers).first(1), options);
  EXPECT_EQ(report.compared.differing, 1u);
  ASSERT_TRUE(report.results[0].first);
  const FirstDifference& d = *report.results[0].first;
  EXPECT_EQ(d.row, 6);
  EXPECT_EQ(d.col, 5);
  EXPECT_EQ(d.position, 4);  // the second of positions(8)
  EXPECT_EQ(d.pool_row, 2);
  EXPECT_EQ(d.batch, 8);
  EXPECT_EQ(d.ulps, 4);
  EXPECT_EQ(d.kernel, "cpu");
  EXPECT_EQ(d.got ^ d.want, 4u);

  EXPECT_EQ(cli::exit_code_of(report), cli::kDifferent);
  EXPECT_EQ(cli::verdict(report), fmt::format("1 of {} outputs differ", report.compared.outputs));
  EXPECT_EQ(cli::explain(report.results[0]),
            fmt::format(
                "first difference: z.dynamic hopper-fast fp16: row 6, column 5: 0x{:04x} in a batch of 8 (kernel cpu, "
                "pool row 0 at 4), 0x{:04x} by the same row alone (pool row 2): 4 ulps\n",
                d.got, d.want));
  const std::string table = cli::verify_table({"x", options, report, {}, 1.0});
  EXPECT_NE(table.find(cli::explain(report.results[0])), std::string::npos) << table;
  const std::string json = cli::verify_json({"x", options, report, {}, 1.0});
  EXPECT_NE(json.find("\"row\":6,\"col\":5,\"dtype\":\"fp16\""), std::string::npos) << json;
}

// A backend that is wrong in the same way everywhere is invariant; the sample tells.
TEST_P(VerifyPlaces, AnInvariantButWrongScheduleIsCaughtByTheSample) {
  const TinyModel model;
  VerifyOptions options = quick(GetParam());
  options.orders = {Order::kHopperFast};
  options.schedule = [](const GemmProblem& problem, const Plan&, const Launch& launch) {
    GemmProblem other = problem;
    other.order = Order::kHopperPromoted;
    gemm(other, launch);
  };
  const VerifyReport report = verify(model.layers, options);
  EXPECT_FALSE(report.passed());
  EXPECT_GT(report.sample.differing, 0u);
  EXPECT_EQ(report.sample.differing, report.compared.differing);
}

TEST(VerifyTest, WithoutACaughtControlNothingPasses) {
  const std::vector<uint8_t> zeros(64 * 64);
  const std::vector<float> one = {1.0f};
  const VerifyLayer layer{"zero", ConstView(zeros.data(), Dtype::kE4m3, 64, 64), one, {}, {}, {}};
  const VerifyReport report = verify(std::span(&layer, 1), quick());
  EXPECT_EQ(report.compared.differing, 0u);
  EXPECT_GT(report.control.outputs, 0u);
  EXPECT_FALSE(report.control_caught);
  EXPECT_FALSE(report.passed());
  EXPECT_EQ(cli::exit_code_of(report), cli::kDifferent);
  EXPECT_EQ(cli::verdict(report), "the control was not caught: nothing is proven");
}

TEST(VerifyTest, GivenActivationsAreUsed) {
  TinyModel model;
  const std::vector<float> x = generate_activations(generator_key(0, "z.dynamic"), 17, 288, 1);
  const uint64_t generated = verify(std::span(model.layers).first(1), quick()).digest;
  model.layers[0].activations = ConstView(x.data(), Dtype::kF32, 17, 288);
  EXPECT_EQ(verify(std::span(model.layers).first(1), quick()).digest, generated);
  const std::vector<uint16_t> ones(288, 0x3f80);
  model.layers[0].activations = ConstView(ones.data(), Dtype::kBf16, 1, 288);
  EXPECT_NE(verify(std::span(model.layers).first(1), quick()).digest, generated);
}

TEST(VerifyTest, CancelStopsAndProvesNothing) {
  const TinyModel model;
  std::atomic<bool> cancel = false;
  VerifyOptions options = quick();
  options.cancel = &cancel;
  double last = 0;
  options.progress = [&](const VerifyProgress& p) {
    EXPECT_GE(p.fraction, last);
    last = p.fraction;
    if (p.layer == "m.static") cancel = true;
  };
  const VerifyReport report = verify(model.layers, options);
  EXPECT_TRUE(report.cancelled);
  EXPECT_FALSE(report.passed());
  EXPECT_EQ(report.results.size(), 2u);
}

TEST(VerifyTest, BadLayersAreRefusedByName) {
  const TinyModel model;
  const auto refused = [&](std::string_view text, const std::function<void(VerifyLayer&, VerifyOptions&)>& spoil) {
    VerifyLayer layer = model.layers[1];
    VerifyOptions options = quick();
    spoil(layer, options);
    expect_error([&] { verify(std::span(&layer, 1), options); }, ErrorCode::kBadInput, text);
  };
  const std::vector<float> bad = {1.0f, INFINITY}, infinite = {INFINITY}, zero = {0.0f};
  refused("b.padded: the weight is empty", [](auto& l, auto&) { l.weight = ConstView(); });
  refused("e4m3", [](auto& l, auto&) { l.weight.dtype = Dtype::kE5m2; });
  refused("2 weight scales for 40 channels", [&](auto& l, auto&) { l.weight_scale = bad; });
  refused("weight scale 0 is inf", [&](auto& l, auto&) { l.weight_scale = infinite; });
  refused("2 input scales", [&](auto& l, auto&) { l.input_scale = bad; });
  refused("input scale is 0", [&](auto& l, auto&) { l.input_scale = zero; });
  refused("the bias is [1,39]", [](auto& l, auto&) { l.bias.cols = 39; });
  refused("K is 300", [&](auto& l, auto&) { l.activations = ConstView(bad.data(), Dtype::kF32, 1, 2); });
  refused("a batch of 0 rows", [](auto&, auto& o) { o.batches = {1, 0}; });
  refused("outputs in fp32", [](auto&, auto& o) { o.dtypes = {Dtype::kF32}; });
  refused("an order and an output dtype", [](auto&, auto& o) { o.orders.clear(); });
}

TEST(VerifyTest, NoLayersIsNoProof) { EXPECT_FALSE(verify({}, quick()).passed()); }

TEST(ShapesTest, NamesAreKnownOrListed) {
  for (const ModelShapes& model : kModelShapes) {
    EXPECT_EQ(&model_shapes(model.name), &model);
    for (const Shape& shape : model.shapes)
      EXPECT_TRUE(shape.n > 0 && shape.k > 0 && shape.n % 16 == 0 && shape.k % 16 == 0);
  }
  expect_error([] { model_shapes("gpt"); }, ErrorCode::kBadInput, "qwen3-1.7b, llama3-8b");
}

}  // namespace
}  // namespace samebits
