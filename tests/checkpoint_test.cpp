// Every layout of FP8 linear layers that vLLM reads, built in a temporary folder; and everything that is not covered.
#include "samebits/checkpoint.h"

#include <fmt/format.h>

#include <cmath>

#include "files.h"
#include "io/layer_names.h"

namespace samebits {
namespace {

using namespace samebits::testing;

// e4m3 codes of finite values.
std::string codes(int64_t count) {
  std::string bytes;
  for (int64_t i = 0; i < count; ++i) bytes += static_cast<char>(i * 7 % 0x7f);
  return bytes;
}

NewTensor weight(const std::string& layer, int64_t n, int64_t k) {
  return {layer + ".weight", "F8_E4M3", {n, k}, codes(n * k)};
}
NewTensor f32(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& v) {
  return {name, "F32", std::move(shape), floats(v)};
}

class CheckpointTest : public ::testing::Test {
 protected:
  const TempFolder folder_;

  Checkpoint file(const std::vector<NewTensor>& tensors) {
    write_safetensors(folder_ / "x.safetensors", tensors);
    return Checkpoint::open(folder_ / "x.safetensors");
  }
  Checkpoint model(const std::vector<NewTensor>& tensors, std::string_view config) {
    write_safetensors(folder_ / "model.safetensors", tensors);
    write_file(folder_ / "config.json", config);
    return Checkpoint::open(folder_.path());
  }
  // The one thing in the checkpoint, which is not covered.
  std::string reason(const Checkpoint& checkpoint) {
    EXPECT_TRUE(checkpoint.linears().empty());
    EXPECT_EQ(checkpoint.not_covered().size(), 1u);
    return checkpoint.not_covered().empty() ? "" : checkpoint.not_covered()[0].reason;
  }
};

const char* const kDynamicChannel =
    R"({"quantization_config":{"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"group_0":
  {"targets":["Linear"],"weights":{"num_bits":8,"type":"float","strategy":"channel","symmetric":true,"dynamic":false},
   "input_activations":{"num_bits":8,"type":"float","strategy":"token","dynamic":true}}}}})";

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST_F(CheckpointTest, VllmPerTensorDynamic) {
  const Checkpoint c = model({weight("a", 4, 6),
                              f32("a.weight_scale", {}, {0.5f}),
                              {"a.bias", "BF16", {4}, codes(8)},
                              {"norm.weight", "BF16", {4}, codes(8)}},
                             R"({"quantization_config":{"quant_method":"fp8","activation_scheme":"dynamic"}})");
  EXPECT_EQ(c.format(), CheckpointFormat::kVllmFp8);
  EXPECT_TRUE(c.not_covered().empty());
  ASSERT_EQ(c.linears().size(), 1u);
  const Linear& l = c.linears()[0];
  EXPECT_EQ(l.name, "a");
  EXPECT_EQ(l.weight.rows, 4);
  EXPECT_EQ(l.weight.cols, 6);
  EXPECT_EQ(std::string(static_cast<const char*>(l.weight.data), 24), codes(24));
  EXPECT_EQ(l.weight_scale, std::vector<float>{0.5f});
  EXPECT_TRUE(l.input_scale.empty());
  EXPECT_EQ(l.bias.dtype, Dtype::kBf16);
  EXPECT_EQ(l.bias.cols, 4);
}

TEST_F(CheckpointTest, VllmStatic) {
  const char* config = R"({"quantization_config":{"quant_method":"fp8","activation_scheme":"static"}})";
  const Checkpoint c =
      model({weight("a", 4, 6), f32("a.weight_scale", {1}, {0.5f}), f32("a.input_scale", {}, {0.25f})}, config);
  ASSERT_EQ(c.linears().size(), 1u);
  EXPECT_EQ(c.linears()[0].input_scale, std::vector<float>{0.25f});
  EXPECT_EQ(reason(model({weight("a", 4, 6), f32("a.weight_scale", {1}, {0.5f})}, config)),
            "static activations without input_scale");
}

TEST_F(CheckpointTest, AnInputScaleOfADynamicSchemeIsNotRead) {
  const Checkpoint c = model({weight("a", 4, 6), f32("a.weight_scale", {1}, {0.5f}), f32("a.input_scale", {}, {0.25f})},
                             R"({"quantization_config":{"quant_method":"fp8","activation_scheme":"dynamic"}})");
  EXPECT_TRUE(c.linears().at(0).input_scale.empty());
}

TEST_F(CheckpointTest, UnknownActivationScheme) {
  expect_error([&] { model({}, R"({"quantization_config":{"quant_method":"fp8","activation_scheme":"sometimes"}})"); },
               ErrorCode::kBadInput, "activation_scheme \"sometimes\" is neither static nor dynamic");
}

TEST_F(CheckpointTest, CompressedTensors) {
  const Checkpoint c = model(
      {weight("a", 2, 3), f32("a.weight_scale", {2, 1}, {1, 2}), weight("b", 2, 3), f32("b.weight_scale", {1}, {3})},
      kDynamicChannel);
  EXPECT_EQ(c.format(), CheckpointFormat::kCompressedTensors);
  ASSERT_EQ(c.linears().size(), 2u);
  EXPECT_EQ(c.linears()[0].weight_scale, (std::vector<float>{1, 2}));
  EXPECT_EQ(c.linears()[1].weight_scale, std::vector<float>{3});
}

TEST_F(CheckpointTest, CompressedTensorsActivations) {
  const std::vector<NewTensor> tensors = {weight("a", 2, 3), f32("a.weight_scale", {2, 1}, {1, 2}),
                                          f32("a.input_scale", {1}, {0.5f})};
  const std::string config = kDynamicChannel;
  EXPECT_TRUE(model(tensors, config).linears().at(0).input_scale.empty());
  EXPECT_EQ(
      model(tensors, replaced(config, R"("strategy":"token","dynamic":true)", R"("strategy":"tensor","dynamic":false)"))
          .linears()
          .at(0)
          .input_scale,
      std::vector<float>{0.5f});
  EXPECT_NE(reason(model(tensors, replaced(config, "\"token\"", "\"tensor\""))).find("whole batch"), std::string::npos);
  EXPECT_EQ(reason(model(tensors, replaced(config, "\"token\"", "\"group\""))), "activations quantized per group");
  EXPECT_NE(reason(model(tensors, replaced(config, "input_activations", "output_activations"))).find("weight-only"),
            std::string::npos);
}

TEST_F(CheckpointTest, ModelOptNestedFlatAndInItsOwnFile) {
  const std::vector<NewTensor> tensors = {weight("a", 2, 3), f32("a.weight_scale", {}, {2}),
                                          f32("a.input_scale", {}, {0.5f})};
  for (const char* config :
       {R"({"quantization_config":{"quant_method":"modelopt","quantization":{"quant_algo":"FP8"}}})",
        R"({"quantization_config":{"quant_method":"modelopt","quant_algo":"FP8"}})"}) {
    const Checkpoint c = model(tensors, config);
    EXPECT_EQ(c.format(), CheckpointFormat::kModelOpt);
    EXPECT_EQ(c.linears().at(0).input_scale, std::vector<float>{0.5f});
  }
  write_file(folder_ / "hf_quant_config.json", R"({"quantization":{"quant_algo":"FP8_PER_CHANNEL_PER_TOKEN"}})");
  const Checkpoint c = model({weight("a", 2, 3), f32("a.weight_scale", {2}, {1, 2})}, "{}");
  EXPECT_EQ(c.format(), CheckpointFormat::kModelOpt);
  EXPECT_EQ(c.linears().at(0).weight_scale, (std::vector<float>{1, 2}));
  write_file(folder_ / "hf_quant_config.json", R"({"quantization":{"quant_algo":"NVFP4"}})");
  EXPECT_EQ(reason(model(tensors, "{}")), "ModelOpt quant_algo \"NVFP4\"");
}

TEST_F(CheckpointTest, NamesAndShapesDoWithoutAConfig) {
  EXPECT_EQ(file({weight("a", 2, 3), f32("a.weight_scale", {}, {1})}).format(), CheckpointFormat::kVllmFp8);
  EXPECT_EQ(file({weight("a", 2, 3), f32("a.weight_scale", {2, 1}, {1, 2})}).format(),
            CheckpointFormat::kCompressedTensors);
  EXPECT_EQ(file({weight("a", 2, 3), f32("a.weight_scale", {2}, {1, 2})}).format(), CheckpointFormat::kModelOpt);
  const Checkpoint c = file({weight("a", 2, 3), f32("a.weight_scale", {}, {1}), f32("a.input_scale", {}, {4})});
  EXPECT_EQ(c.linears().at(0).input_scale, std::vector<float>{4});
  EXPECT_EQ(file({f32("a.weight", {2, 3}, {1, 2, 3, 4, 5, 6})}).format(), CheckpointFormat::kNone);
}

TEST_F(CheckpointTest, ScalesOf16BitsAreWidenedExactly) {
  const Checkpoint c = file({weight("a", 2, 3),
                             {"a.weight_scale", "BF16", {2, 1}, std::string("\x81\x3f\x00\x80", 4)},
                             weight("b", 2, 3),
                             {"b.weight_scale", "F16", {}, std::string("\x01\x00", 2)}});
  ASSERT_EQ(c.linears().size(), 2u);
  EXPECT_EQ(c.linears()[0].weight_scale[0], 1.0078125f);
  EXPECT_TRUE(std::signbit(c.linears()[0].weight_scale[1]));
  EXPECT_EQ(c.linears()[1].weight_scale[0], 0x1p-24f);
}

TEST_F(CheckpointTest, FusedScalesAreExpandedExactly) {
  const std::vector<NewTensor> qkv = {weight("l.qkv_proj", 8, 4), f32("l.qkv_proj.weight_scale", {3}, {1, 2, 3}),
                                      f32("l.qkv_proj.input_scale", {3}, {5, 7, 6})};
  const std::string config = R"({"num_attention_heads":2,"num_key_value_heads":1,"hidden_size":4})";
  const Checkpoint c = model(qkv, config);
  ASSERT_EQ(c.linears().size(), 1u);
  EXPECT_EQ(c.linears()[0].weight_scale, (std::vector<float>{1, 1, 1, 1, 2, 2, 3, 3}));
  EXPECT_EQ(c.linears()[0].input_scale, std::vector<float>{7});
  EXPECT_EQ(model(qkv, R"({"text_config":{"num_attention_heads":4,"head_dim":1,"num_key_value_heads":2}})")
                .linears()
                .at(0)
                .weight_scale,
            (std::vector<float>{1, 1, 1, 1, 2, 2, 3, 3}));
  // 8 rows are not 3 equal parts, and the heads of this config do not add up to 8.
  EXPECT_NE(reason(file(qkv)).find(
                "weight_scale is F32 [3] for a weight [8,4]: which rows each of the 3 scales covers is not known"),
            std::string::npos);
  EXPECT_NE(reason(model(qkv, R"({"num_attention_heads":2,"hidden_size":4})")).find("not known"), std::string::npos);

  const Checkpoint halves = file({weight("l.gate_up_proj", 4, 4), f32("l.gate_up_proj.weight_scale", {2}, {1, 2})});
  EXPECT_EQ(halves.linears().at(0).weight_scale, (std::vector<float>{1, 1, 2, 2}));
  EXPECT_NE(reason(file({weight("l.other", 6, 4), f32("l.other.weight_scale", {3}, {1, 2, 3})})).find("not known"),
            std::string::npos);
}

TEST_F(CheckpointTest, WhatIsNotCoveredIsNamed) {
  const auto scale = [](const std::string& layer) { return f32(layer + ".weight_scale", {}, {1}); };
  EXPECT_EQ(reason(file({weight("m.experts.3.up_proj", 2, 3), scale("m.experts.3.up_proj")})), "MoE expert");
  EXPECT_EQ(reason(file({{"m.experts.gate_up_proj", "F8_E4M3", {2, 2, 2}, codes(8)}})), "MoE expert");
  EXPECT_EQ(reason(file({weight("m.embed_tokens", 2, 3), scale("m.embed_tokens")})), "embedding");
  EXPECT_EQ(reason(file({weight("a", 2, 3)})), "FP8 weight without weight_scale");
  EXPECT_EQ(reason(file({{"a.weight", "F8_E5M2", {2, 3}, codes(6)}, scale("a")})), "F8_E5M2 weight; e4m3 is covered");
  EXPECT_EQ(reason(file({{"a.weight", "F8_E4M3", {2, 3, 1}, codes(6)}, scale("a")})),
            "a weight of shape [2,3,1], not [N,K]");
  EXPECT_EQ(reason(file({{"a.weight", "F8_E4M3", {0, 3}, ""}, scale("a")})), "an empty weight [0,3]");
  EXPECT_EQ(reason(file({weight("a", 4, 4), f32("a.weight_scale", {2, 2}, {1, 2, 3, 4})})),
            "block scales: weight_scale is F32 [2,2] for a weight [4,4]; blocks of 128 x 128 have [1,1]");
  EXPECT_EQ(reason(file({weight("a", 4, 4), {"a.weight_scale", "F8_E8M0", {4, 1}, codes(4)}})),
            "weight_scale is F8_E8M0 [4,1]");
  EXPECT_EQ(reason(file({{"a.table", "F8_E4M3", {2}, codes(2)}})), "F8_E4M3 [2] that is no layer's weight");
  EXPECT_EQ(reason(file({weight("a", 4, 4), scale("a"), f32("a.input_scale", {4}, {1, 2, 3, 4})})),
            "input_scale is F32 [4], not one value");
}

// DeepSeek-V3's and Qwen3-FP8's layout, with or without its config, and compressed-tensors' blocks.
TEST_F(CheckpointTest, BlockScales) {
  const std::string fp8 =
      R"({"quantization_config":{"quant_method":"fp8","activation_scheme":"dynamic","weight_block_size":[128,128]}})";
  const std::string groups = replaced(
      replaced(kDynamicChannel, R"("strategy":"channel")", R"("strategy":"block","block_structure":[128,128])"),
      R"("strategy":"token")", R"("strategy":"group","group_size":128)");
  const std::vector<NewTensor> inverse = {weight("a", 130, 300), f32("a.weight_scale_inv", {2, 3}, {1, 2, 3, 4, 5, 6}),
                                          weight("m.experts.0.up", 128, 128),
                                          f32("m.experts.0.up.weight_scale_inv", {1, 1}, {1})};
  std::vector<NewTensor> plain = {weight("a", 130, 300), f32("a.weight_scale", {2, 3}, {1, 2, 3, 4, 5, 6})};
  for (const Checkpoint& c : {model(inverse, fp8), model(inverse, "{}"), file(inverse), model(plain, groups)}) {
    ASSERT_EQ(c.linears().size(), 1u);
    EXPECT_TRUE(c.linears()[0].blocks);
    EXPECT_EQ(c.linears()[0].weight_scale, (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_TRUE(c.linears()[0].input_scale.empty());
  }
  const Checkpoint c = model(inverse, fp8);
  EXPECT_EQ(c.format(), CheckpointFormat::kVllmFp8);
  ASSERT_EQ(c.not_covered().size(), 1u);
  EXPECT_EQ(c.not_covered()[0].reason, "MoE expert");
  EXPECT_EQ(reason(model(plain, replaced(fp8, "[128,128]", "[1,128]"))),
            "weight_block_size [1,128]; [128,128] is covered");
  EXPECT_EQ(reason(model({weight("a", 130, 300), f32("a.weight_scale_inv", {3, 2}, {1, 2, 3, 4, 5, 6})}, fp8)),
            "block scales: weight_scale_inv is F32 [3,2] for a weight [130,300]; blocks of 128 x 128 have [2,3]");
}

TEST_F(CheckpointTest, TensorParallelShardsAreNamed) {
  write_file(folder_ / "model-rank-0-part-0.safetensors", "not even read");
  write_file(folder_ / "model-rank-1-part-0.safetensors", "not even read");
  const Checkpoint c = Checkpoint::open(folder_.path());
  EXPECT_TRUE(c.linears().empty());
  ASSERT_EQ(c.not_covered().size(), 2u);
  EXPECT_EQ(c.not_covered()[1].name, "model-rank-1-part-0.safetensors");
  for (const char* file : {"rank0.safetensors", "mp_rank_00_model_states.safetensors", "model.tp_rank-3.safetensors"})
    EXPECT_NE(reason(Checkpoint::open(folder_ / file)).find("tensor-parallel shard"), std::string::npos) << file;
  for (const char* file : {"frank1.safetensors", "rank.safetensors", "rank-x.safetensors", "reranker-0.safetensors"})
    expect_error([&] { Checkpoint::open(folder_ / file); }, ErrorCode::kIo, "No such file");
  EXPECT_NE(reason(Checkpoint::open(folder_ / "model-rank-0-part-0.safetensors")).find("tensor-parallel shard"),
            std::string::npos);
}

TEST_F(CheckpointTest, SharedExpertsAreLinears) {
  const Checkpoint c =
      file({weight("m.shared_experts.up_proj", 2, 3), f32("m.shared_experts.up_proj.weight_scale", {}, {1})});
  EXPECT_EQ(c.linears().size(), 1u);
}

TEST_F(CheckpointTest, LinearsComeInOrderOfName) {
  std::vector<NewTensor> tensors;
  for (const char* layer : {"a.b.c", "a.b", "a.a", "a.b0"})
    tensors.push_back(weight(layer, 2, 3)), tensors.push_back(f32(std::string(layer) + ".weight_scale", {}, {1}));
  const Checkpoint c = file(tensors);
  std::string names;
  for (const Linear& l : c.linears()) names += l.name + " ";
  EXPECT_EQ(names, "a.a a.b a.b.c a.b0 ");
}

TEST_F(CheckpointTest, BadBiasIsAnError) {
  expect_error(
      [&] {
        file({weight("a", 2, 3), f32("a.weight_scale", {}, {1}), f32("a.bias", {3}, {1, 2, 3})});
      },
      ErrorCode::kBadInput, "a.bias is F32 [3]; a weight [2,3] takes a floating-point bias [2]");
}

TEST_F(CheckpointTest, BadValuesAreNamed) {
  NewTensor w = weight("a", 2, 3);
  w.bytes[4] = '\xff';
  expect_error(
      [&] {
        check_values(file({w, f32("a.weight_scale", {}, {1})}).linears()[0]);
      },
      ErrorCode::kBadInput, "a.weight[1,1] is nan");
  const auto check = [&](const std::vector<float>& scales, const std::vector<float>& bias) {
    check_values(
        file({weight("a", 2, 3), f32("a.weight_scale", {2, 1}, scales), f32("a.bias", {2}, bias)}).linears()[0]);
  };
  EXPECT_NO_THROW(check({1, 0}, {1, INFINITY}));
  expect_error([&] { check({1, INFINITY}, {0, 0}); }, ErrorCode::kBadInput, "a.weight_scale[1,0] is inf");
  expect_error([&] { check({NAN, 1}, {0, 0}); }, ErrorCode::kBadInput, "a.weight_scale[0,0] is nan");
  expect_error([&] { check({1, 1}, {0, NAN}); }, ErrorCode::kBadInput, "a.bias[0,1] is nan");
  const Checkpoint fused = file(
      {weight("qkv_proj", 8, 4), f32("qkv_proj.weight_scale", {}, {1}), f32("qkv_proj.input_scale", {3}, {1, NAN, 2})});
  expect_error([&] { check_values(fused.linears().at(0)); }, ErrorCode::kBadInput, "qkv_proj.input_scale[0,0] is nan");
}

class ShardedTest : public CheckpointTest {
 protected:
  void SetUp() override {
    write_safetensors(folder_ / "model-00001-of-00002.safetensors",
                      {weight("a", 2, 3), f32("b.weight_scale", {}, {2})});
    write_safetensors(folder_ / "model-00002-of-00002.safetensors",
                      {weight("b", 2, 3), f32("a.weight_scale", {}, {1})});
    index(kIndex);
  }
  void index(std::string_view text) { write_file(folder_ / "model.safetensors.index.json", text); }
  void refused(std::string_view text, ErrorCode code = ErrorCode::kBadInput) {
    expect_error([&] { Checkpoint::open(folder_.path()); }, code, text);
  }
  const std::string kIndex =
      R"({"metadata":{},"weight_map":{"a.weight":"model-00001-of-00002.safetensors","b.weight_scale":"model-00001-of-00002.safetensors",
    "b.weight":"model-00002-of-00002.safetensors","a.weight_scale":"model-00002-of-00002.safetensors"}})";
};

TEST_F(ShardedTest, ScalesMayLieInAnotherShard) {
  const Checkpoint c = Checkpoint::open(folder_.path());
  ASSERT_EQ(c.linears().size(), 2u);
  EXPECT_EQ(c.linears()[0].weight_scale, std::vector<float>{1});
  EXPECT_EQ(c.linears()[1].weight_scale, std::vector<float>{2});
}
TEST_F(ShardedTest, MissingShard) {
  std::filesystem::remove(folder_ / "model-00002-of-00002.safetensors");
  refused("the shard model-00002-of-00002.safetensors with 2 tensors is missing", ErrorCode::kIo);
}
TEST_F(ShardedTest, ShardWithoutTheTensor) {
  index(replaced(kIndex, R"("a.weight":"model-00001)", R"("a.weight":"model-00002)"));
  refused("the index puts tensor \"a.weight\" here, but the shard lacks it");
}
TEST_F(ShardedTest, TensorInTwoShards) {
  write_safetensors(folder_ / "model-00002-of-00002.safetensors",
                    {weight("b", 2, 3), f32("a.weight_scale", {}, {1}), weight("a", 2, 3)});
  refused("tensor \"a.weight\" lies in");
}
TEST_F(ShardedTest, PathsOutOfTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "", "x.bin",
                           "a\\\\b.safetensors", "x\\u0000.safetensors"}) {
    index(fmt::format(R"({{"weight_map":{{"a.weight":"{}"}}}})", name));
    refused("is not the plain name of a .safetensors file");
  }
}
TEST_F(ShardedTest, BadIndex) {
  for (const auto& [text, message] :
       {std::pair("[]", "not a JSON object"),
        {"{}", "no weight_map object"},
        {R"({"weight_map":{}})", "the weight_map is empty"},
        {R"({"weight_map":{"a":1}})", "the shard of \"a\" is not a string"},
        {"{", "not JSON"},
        {R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})", "appears twice"}}) {
    index(text);
    refused(message);
  }
}
TEST_F(ShardedTest, FolderWithoutAModel) {
  std::filesystem::remove(folder_ / "model.safetensors.index.json");
  refused("the folder has neither model.safetensors nor model.safetensors.index.json");
}
TEST_F(ShardedTest, BadConfig) {
  write_file(folder_ / "config.json", "[1]");
  refused("config.json: not a JSON object");
}

TEST(LayerNamesTest, WhatIsALinearLayer) {
  for (const char* layer :
       {"encoder.layer.0.attention.self.query", "encoder.layer.0.attention.output.dense",
        "encoder.layer.0.intermediate.dense", "encoder.layer.0.output.dense", "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.gate_up_proj",
        "model.layers.0.mlp.down_proj", "model.layers.0.mlp.shared_expert.up_proj",
        "gpt_neox.layers.0.attention.query_key_value"})
    EXPECT_EQ(exclusion(layer), "") << layer;
  for (const auto& [layer, reason] : {std::pair("embeddings.word_embeddings", "embedding"),
                                      {"model.embed_tokens", "embedding"},
                                      {"transformer.wte", "embedding"},
                                      {"shared", "embedding"},
                                      {"decoder.block.0.layer.0.SelfAttention.relative_attention_bias", "embedding"},
                                      {"lm_head", "output head"},
                                      {"output", "output head"},
                                      {"embed_out", "output head"},
                                      {"model.layers.0.input_layernorm", "norm"},
                                      {"encoder.layer.0.output.LayerNorm", "norm"},
                                      {"model.layers.0.mlp.gate", "router"},
                                      {"m.block_sparse_moe.gate", "router"},
                                      {"m.mlp.shared_expert_gate", "router"},
                                      {"m.router.layer", "router"},
                                      {"pooler.dense", "task head"},
                                      {"classifier", "task head"},
                                      {"score", "task head"},
                                      {"cls.predictions.transform.dense", "task head"}})
    EXPECT_EQ(exclusion(layer), reason) << layer;
}

}  // namespace
}  // namespace samebits
