// The proof of layers with block scales: under their Order alone, with the digest of the definition, a control that is
// caught, and refusals.
#include "samebits/verify.h"

#include <xxhash.h>

#include "core/generator.h"
#include "core/verify_layer.h"
#include "files.h"
#include "numerics/reference.h"
#include "place.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

using namespace samebits::testing;

VerifyOptions quick(const DeviceInfo* device = &cpu_device()) {
  VerifyOptions options;
  options.device = device;
  options.batches = {1, 2, 17};
  return options;
}

/// A layer with a scale for each channel.
struct PlainModel {
  RandomWeight weight = generate_weight(generator_key(1, "plain"), 48, 288, 1);
  VerifyLayer layer{"plain", ConstView(weight.codes.data(), Dtype::kE4m3, 48, 288), weight.scale, {}, {}, {}};
};

/// A layer with block scales, N and K that need padding, and one of a single block.
struct BlockModel {
  std::vector<RandomWeight> weights;
  std::vector<float> bias;
  std::vector<VerifyLayer> layers;

  BlockModel() {
    for (auto [n, k] : {std::pair<int64_t, int64_t>{200, 300}, {48, 100}})
      weights.push_back(
          generate_weight(generator_key(2, "block" + std::to_string(n)), n, k, 1, Granularity::kPerBlock));
    for (int i = 0; i < 200; ++i) bias.push_back(static_cast<float>(i - 100) * 0.3f);
    layers.push_back({"blocks",
                      ConstView(weights[0].codes.data(), Dtype::kE4m3, 200, 300),
                      weights[0].scale,
                      {},
                      ConstView(bias.data(), Dtype::kF32, 1, 200),
                      {},
                      true});
    layers.push_back(
        {"one", ConstView(weights[1].codes.data(), Dtype::kE4m3, 48, 100), weights[1].scale, {}, {}, {}, true});
  }
};

class VerifyBlocks : public ::testing::TestWithParam<const DeviceInfo*> {};
INSTANTIATE_TEST_SUITE_P(Places, VerifyBlocks, ::testing::ValuesIn(places()), place_name);

TEST_P(VerifyBlocks, BlockScalesAreProvedUnderTheirOrder) {
  const BlockModel model;
  const PlainModel plain;
  std::vector<VerifyLayer> layers = model.layers;
  layers.push_back(plain.layer);
  const VerifyReport report = verify(layers, quick(GetParam()));
  EXPECT_TRUE(report.passed());
  ASSERT_EQ(report.results.size(), 4u);
  for (size_t i = 0; i < 2; ++i) {
    const VerifyResult& r = report.results[i];
    EXPECT_EQ(r.order, Order::kHopperBlock128) << r.layer;
    EXPECT_GT(r.control.differing, 0u) << r.layer;
    EXPECT_GT(r.sample.outputs, 0u);
  }
  EXPECT_EQ(report.results[2].order, Order::kHopperFast);
  // The digest by definition: rows quantized in groups, then the reference alone.
  const VerifyLayer& layer = layers[0];
  const std::vector<float> x = generate_activations(generator_key(0, layer.name), kDigestRows, 300, 1);
  Matrix q(Dtype::kE4m3, kDigestRows, 300), scale(Dtype::kF32, kDigestRows, 3);
  quantize_per_group(ConstView(x.data(), Dtype::kF32, kDigestRows, 300), q.view(), {scale.view()});
  std::vector<uint16_t> outputs;
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
    Matrix out(dtype, kDigestRows, 200), bias(dtype, 1, 200);
    for (int64_t col = 0; col < 200; ++col)
      store(dtype, bias.view().at(0, col), load(Dtype::kF32, layer.bias.at(0, col)));
    GemmProblem p{Order::kHopperBlock128,
                  q.view(),
                  layer.weight,
                  Scales::blocks(scale.as<float>(), kDigestRows, 3),
                  Scales::blocks(layer.weight_scale.data(), 2, 3),
                  bias.view(),
                  out.view()};
    reference_gemm(p);
    outputs.insert(outputs.end(), out.as<uint16_t>(), out.as<uint16_t>() + kDigestRows * 200);
  }
  EXPECT_EQ(report.results[0].digest, XXH3_64bits(outputs.data(), outputs.size() * sizeof(uint16_t)));
}

TEST_P(VerifyBlocks, ABlockScheduleThatDependsOnMIsCaught) {
  const BlockModel model;
  VerifyOptions options = quick(GetParam());
  options.schedule = [](const GemmProblem& problem, const Plan& plan, const Launch& launch) {
    GemmProblem other = problem;
    if (problem.m() > 2) other.scale_a.col_stride = 0;  // the scales of the first block for all
    gemm(other, plan, launch);
  };
  const VerifyReport report = verify({model.layers.data(), 1}, options);
  EXPECT_FALSE(report.passed());
  EXPECT_GT(report.compared.differing, 0u);
}

TEST(VerifyBlocksTest, OrdersThatDoNotTakeTheScalesAreRefused) {
  const BlockModel model;
  const PlainModel plain;
  VerifyOptions options = quick();
  options.orders = {Order::kHopperFast};
  expect_error([&] { verify(model.layers, options); }, ErrorCode::kBadInput,
               "blocks: none of the orders asked for takes block scales; hopper-block128 does");
  options.orders = {Order::kHopperBlock128};
  expect_error([&] { verify(std::span(&plain.layer, 1), options); }, ErrorCode::kBadInput,
               "takes a scale per tensor or channel");
  BlockModel bad;
  bad.layers[0].weight_scale = bad.layers[0].weight_scale.first(5);
  expect_error([&] { verify(bad.layers); }, ErrorCode::kBadInput, "blocks: 5 weight scales for 6 blocks");
}

}  // namespace
}  // namespace samebits
