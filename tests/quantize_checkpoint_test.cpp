// samebits quantize as a library call: what it picks, what it writes for each format, and that a failure leaves
// nothing.
#include <fmt/format.h>

#include <cmath>

#include "bits.h"
#include "files.h"
#include "io/json.h"
#include "io/model_files.h"
#include "samebits/checkpoint.h"

namespace samebits {
namespace {

using namespace samebits::testing;

QuantizeOptions vllm() { return {.weights = Granularity::kPerTensor, .format = CheckpointFormat::kVllmFp8}; }

std::vector<float> values(int64_t count) {
  Random random{7};
  std::vector<float> v(static_cast<size_t>(count));
  for (float& x : v) x = static_cast<float>(random.uniform() - 0.5);
  return v;
}

class QuantizeCheckpointTest : public ::testing::Test {
 protected:
  const TempFolder folder_;

  NewTensor matrix(const std::string& name, int64_t n, int64_t k) {
    return {name, "F32", {n, k}, floats(values(n * k))};
  }

  // A small BERT with everything that is no linear layer.
  std::vector<NewTensor> tensors() {
    return {matrix("encoder.query.weight", 16, 32),
            {"encoder.query.bias", "F32", {16}, floats(values(16))},
            matrix("encoder.dense.weight", 5, 32),
            matrix("embeddings.word_embeddings.weight", 8, 32),
            {"encoder.LayerNorm.weight", "F32", {32}, floats(values(32))},
            {"embeddings.position_ids", "I64", {2}, std::string(16, '\1')},
            matrix("pooler.dense.weight", 32, 32)};
  }
  std::filesystem::path in() {
    write_file(folder_ / "in/config.json", R"({"architectures":["BertModel"],"hidden_size":32,"model_type":"bert"})");
    write_file(folder_ / "in/tokenizer.json", "{}");
    write_file(folder_ / "in/vocab.txt", "");
    write_file(folder_ / "in/1_Pooling/config.json", "{\"pool\":1}");
    write_file(folder_ / "in/.gitattributes", "hidden");
    write_file(folder_ / "in/pytorch_model.bin", "weights");
    write_safetensors(folder_ / "in/model.safetensors", tensors());
    return folder_ / "in";
  }
  void refused(std::string_view text, const QuantizeOptions& options = {}, ErrorCode code = ErrorCode::kBadInput) {
    expect_error([&] { quantize_checkpoint(folder_ / "in", folder_ / "out", options); }, code, text);
    EXPECT_EQ(folder_.list(), std::vector<std::string>{"in"});
  }
  Json config() { return parse_json(read_file(folder_ / "out/config.json"), "config.json", 32); }
};

TEST_F(QuantizeCheckpointTest, CompressedTensorsByDefault) {
  size_t calls = 0;
  const QuantizeReport report = quantize_checkpoint(
      in(), folder_ / "out", {},
      [&](std::string_view, size_t done, size_t total) { EXPECT_TRUE(done == calls++ && total == 10); });
  EXPECT_EQ(calls, 10u);  // 7 tensors, 3 files
  ASSERT_EQ(report.quantized.size(), 2u);
  EXPECT_EQ(report.quantized[0].name, "encoder.dense");
  EXPECT_TRUE(report.quantized[0].needs_padding);
  EXPECT_EQ(report.quantized[1].name, "encoder.query");
  EXPECT_FALSE(report.quantized[1].needs_padding);
  ASSERT_EQ(report.skipped.size(), 2u);
  EXPECT_EQ(report.skipped[0].reason, "embedding");
  EXPECT_EQ(report.skipped[1].name, "pooler.dense");
  EXPECT_EQ(report.copied, (std::vector<std::string>{"1_Pooling/config.json", "tokenizer.json", "vocab.txt"}));
  EXPECT_TRUE(report.warnings.empty());
  EXPECT_EQ(report.bytes_out, std::filesystem::file_size(folder_ / "out/model.safetensors"));
  EXPECT_EQ(read_file(folder_ / "out/1_Pooling/config.json"), "{\"pool\":1}");
  EXPECT_EQ(folder_.list(), (std::vector<std::string>{"in", "out"}));

  const SafetensorsFile file = SafetensorsFile::open(folder_ / "out/model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(describe(*file.find("encoder.query.weight")), "F8_E4M3 [16,32]");
  EXPECT_EQ(describe(*file.find("encoder.query.weight_scale")), "F32 [16,1]");
  EXPECT_EQ(describe(*file.find("embeddings.position_ids")), "I64 [2]");
  for (const NewTensor& t : tensors()) {
    const Tensor* got = file.find(t.name);
    ASSERT_NE(got, nullptr) << t.name;
    const bool kept = got->type->name == t.type;
    EXPECT_EQ(kept, t.name.find("encoder.") == std::string::npos || t.shape.size() == 1) << t.name;
    EXPECT_EQ(kept, std::string(reinterpret_cast<const char*>(got->bytes.data()), got->bytes.size()) == t.bytes)
        << t.name;
  }

  const Json q = config().at("quantization_config");
  EXPECT_EQ(config().at("hidden_size"), 32);
  EXPECT_EQ(q.at("quant_method"), "compressed-tensors");
  EXPECT_EQ(q.at("format"), "float-quantized");
  EXPECT_EQ(q.at("quantization_status"), "compressed");
  EXPECT_EQ(q.at("ignore"), Json::array({"pooler.dense"}));
  const Json group = q.at("config_groups").at("group_0");
  EXPECT_EQ(group.at("targets"), Json::array({"Linear"}));
  for (const char* side : {"weights", "input_activations"}) {
    EXPECT_EQ(group.at(side).at("num_bits"), 8);
    EXPECT_EQ(group.at(side).at("type"), "float");
    EXPECT_EQ(group.at(side).at("symmetric"), true);
    EXPECT_EQ(group.at(side).at("dynamic"), side == std::string_view("input_activations"));
  }
  EXPECT_EQ(group.at("weights").at("strategy"), "channel");
  EXPECT_EQ(group.at("input_activations").at("strategy"), "token");
}

// The bits are the public quantizer's, and the checkpoint reader reads them back.
TEST_F(QuantizeCheckpointTest, BitsAreTheQuantizers) {
  in();
  for (const Granularity granularity : {Granularity::kPerTensor, Granularity::kPerChannel}) {
    quantize_checkpoint(folder_ / "in", folder_ / "out", {.weights = granularity});
    const Checkpoint checkpoint = Checkpoint::open(folder_ / "out");
    EXPECT_EQ(checkpoint.format(), CheckpointFormat::kCompressedTensors);
    EXPECT_TRUE(checkpoint.not_covered().empty());
    ASSERT_EQ(checkpoint.linears().size(), 2u);
    const std::vector<float> w = values(5 * 32);
    Matrix q(Dtype::kE4m3, 5, 32);
    std::vector<float> scale(granularity == Granularity::kPerChannel ? 5 : 1);
    quantize_weight(ConstView(w.data(), Dtype::kF32, 5, 32), granularity, q.view(), scale.data(), "w");
    const Linear& linear = checkpoint.linears()[0];
    EXPECT_TRUE(same_bits(linear.weight, q.view()));
    EXPECT_EQ(linear.weight_scale, scale);
    EXPECT_TRUE(linear.input_scale.empty());
    EXPECT_EQ(checkpoint.linears()[1].bias.cols, 16);
  }
}

TEST_F(QuantizeCheckpointTest, VllmFp8) {
  quantize_checkpoint(in(), folder_ / "out", vllm());
  const Checkpoint checkpoint = Checkpoint::open(folder_ / "out");
  EXPECT_EQ(checkpoint.format(), CheckpointFormat::kVllmFp8);
  EXPECT_EQ(checkpoint.linears().size(), 2u);
  EXPECT_EQ(describe(*SafetensorsFile::open(folder_ / "out/model.safetensors").find("encoder.query.weight_scale")),
            "F32 []");
  EXPECT_EQ(
      config().at("quantization_config"),
      parse_json(R"({"quant_method":"fp8","activation_scheme":"dynamic","ignored_layers":["pooler.dense"]})", "", 4));
}

TEST_F(QuantizeCheckpointTest, BlocksAsDeepSeekHasThem) {
  in();
  std::vector<NewTensor> all = tensors();
  all.push_back(matrix("encoder.up.weight", 200, 300));
  write_safetensors(folder_ / "in/model.safetensors", all);
  quantize_checkpoint(folder_ / "in", folder_ / "out",
                      {.weights = Granularity::kPerBlock, .format = CheckpointFormat::kVllmFp8});
  EXPECT_EQ(describe(*SafetensorsFile::open(folder_ / "out/model.safetensors").find("encoder.up.weight_scale_inv")),
            "F32 [2,3]");
  EXPECT_EQ(
      config().at("quantization_config"),
      parse_json(R"({"quant_method":"fp8","activation_scheme":"dynamic","fmt":"e4m3","weight_block_size":[128,128],
                           "modules_to_not_convert":["pooler.dense"]})",
                 "", 4));
  const Checkpoint checkpoint = Checkpoint::open(folder_ / "out");
  EXPECT_EQ(checkpoint.format(), CheckpointFormat::kVllmFp8);
  ASSERT_EQ(checkpoint.linears().size(), 3u);
  const Linear& up = checkpoint.linears()[2];
  ASSERT_TRUE(up.blocks);
  const NewTensor& source = all.back();
  Matrix q(Dtype::kE4m3, 200, 300);
  std::vector<float> scale(6);
  quantize_weight(ConstView(source.bytes.data(), Dtype::kF32, 200, 300), Granularity::kPerBlock, q.view(), scale.data(),
                  "w");
  EXPECT_EQ(up.weight_scale, scale);
  EXPECT_TRUE(same_bits(up.weight, q.view()));
}

TEST_F(QuantizeCheckpointTest, LinearsOnlyIsSmall) {
  quantize_checkpoint(in(), folder_ / "out", {.linears_only = true});
  const SafetensorsFile file = SafetensorsFile::open(folder_ / "out/model.safetensors");
  std::string names;
  for (const Tensor& t : file.tensors()) names += t.name + " ";
  EXPECT_EQ(names,
            "encoder.dense.weight encoder.dense.weight_scale encoder.query.bias encoder.query.weight "
            "encoder.query.weight_scale ");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/config.json"));
}

TEST_F(QuantizeCheckpointTest, ASingleFileAndShardsGiveTheSameLayers) {
  in();
  quantize_checkpoint(folder_ / "in/model.safetensors", folder_ / "one");
  EXPECT_EQ(Checkpoint::open(folder_ / "one").linears().size(), 2u);
  EXPECT_FALSE(parse_json(read_file(folder_ / "one/config.json"), "", 32).contains("hidden_size"));

  std::string map;  // every tensor in a shard of its own
  for (const NewTensor& t : tensors()) {
    const std::string shard = fmt::format("shard-{}.safetensors", map.size());
    std::filesystem::create_directories(folder_ / "sharded");
    write_safetensors(folder_ / ("sharded/" + shard), {t});
    map += fmt::format("{}\"{}\":\"{}\"", map.empty() ? "" : ",", t.name, shard);
  }
  write_file(folder_ / "sharded/model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  const QuantizeReport report = quantize_checkpoint(folder_ / "sharded", folder_ / "two");
  EXPECT_TRUE(report.copied.empty());
  EXPECT_EQ(read_file(folder_ / "two/model.safetensors"), read_file(folder_ / "one/model.safetensors"));
}

TEST_F(QuantizeCheckpointTest, IgnoreGlobsAndTheirWarnings) {
  in();
  write_safetensors(folder_ / "in/model.safetensors",
                    {matrix("l.0.q_proj.weight", 4, 4), matrix("l.0.k_proj.weight", 4, 4),
                     matrix("l.1.q_proj.weight", 4, 4), matrix("l.1.o_proj.weight", 4, 4)});
  const QuantizeReport report =
      quantize_checkpoint(folder_ / "in", folder_ / "out", {.ignore = {"l.?.q_proj", "*.o_*", "nothing"}});
  ASSERT_EQ(report.quantized.size(), 1u);
  EXPECT_EQ(report.quantized[0].name, "l.0.k_proj");
  EXPECT_EQ(report.skipped.at(0).reason, "matches l.?.q_proj");
  ASSERT_EQ(report.warnings.size(), 2u);
  EXPECT_NE(report.warnings[0].find("l.0: "), std::string::npos);
  EXPECT_NE(report.warnings[0].find("half quantized"), std::string::npos);
  EXPECT_EQ(report.warnings[1], "--ignore nothing matches no layer");
  EXPECT_EQ(config().at("quantization_config").at("ignore"), Json::array({"l.0.q_proj", "l.1.o_proj", "l.1.q_proj"}));
}

TEST_F(QuantizeCheckpointTest, ATiedOutputHeadIsIgnoredByName) {
  in();
  write_file(folder_ / "in/config.json", R"({"architectures":["Qwen3ForCausalLM"],"tie_word_embeddings":true})");
  quantize_checkpoint(folder_ / "in", folder_ / "out");
  EXPECT_EQ(config().at("quantization_config").at("ignore"), Json::array({"pooler.dense", "lm_head"}));
}

TEST_F(QuantizeCheckpointTest, LayersThatAreTransposedAreLeftAlone) {
  in();
  write_safetensors(folder_ / "in/model.safetensors",
                    {matrix("a.weight", 4, 8), matrix("b.weight", 4, 8), {"b.bias", "F32", {8}, floats(values(8))}});
  const QuantizeReport report = quantize_checkpoint(folder_ / "in", folder_ / "out");
  EXPECT_EQ(report.quantized.size(), 1u);
  EXPECT_EQ(report.skipped.at(0).reason, "bias of 8 values for 4 rows: not a linear layer [N,K]");
  std::filesystem::remove_all(folder_ / "out");
  write_file(folder_ / "in/config.json", R"({"model_type":"gpt2"})");
  refused("no linear layer to quantize among 3 tensors (2 2-D weights skipped)");
}

TEST_F(QuantizeCheckpointTest, NonFiniteWeightsAreNamedAndNothingIsWritten) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    in();
    std::vector<float> v = values(16 * 32);
    v[3 * 32 + 5] = bad;
    std::vector<NewTensor> t = tensors();
    t[0].bytes = floats(v);
    write_safetensors(folder_ / "in/model.safetensors", t);
    refused("encoder.query.weight");
    refused("3,5", vllm());
  }
}

TEST_F(QuantizeCheckpointTest, WhatIsQuantizedAlreadyIsRefused) {
  quantize_checkpoint(in(), folder_ / "in2");
  std::filesystem::remove_all(folder_ / "in");
  std::filesystem::rename(folder_ / "in2", folder_ / "in");
  refused("config.json has a quantization_config: the model is quantized already");
  std::filesystem::remove(folder_ / "in/config.json");
  refused("is F8_E4M3 [5,32]: the model is quantized already");
}

TEST_F(QuantizeCheckpointTest, BadOptionsAndPlacesAreRefused) {
  in();
  refused("vllm-fp8 stores one scale per tensor", {.format = CheckpointFormat::kVllmFp8});
  refused("block scales are written as vllm-fp8 alone", {.weights = Granularity::kPerBlock});
  refused("the format modelopt is not written", {.format = CheckpointFormat::kModelOpt});
  for (const char* out : {"in", "in/", "in/sub", "in/../in", "."})
    expect_error([&] { quantize_checkpoint(folder_ / "in", folder_ / out); }, ErrorCode::kBadInput,
                 "outside of the input");
  expect_error([&] { quantize_checkpoint(folder_ / "in/model.safetensors", folder_ / "in"); }, ErrorCode::kBadInput,
               "outside of the input");
  expect_error([&] { quantize_checkpoint(folder_ / "none", folder_ / "out"); }, ErrorCode::kIo, "No such file");
  expect_error([&] { quantize_checkpoint(folder_ / "in", "/dev/full"); }, ErrorCode::kBadInput, "not a folder");
  EXPECT_EQ(folder_.list(), std::vector<std::string>{"in"});
}

TEST_F(QuantizeCheckpointTest, AnEarlierResultIsReplacedButNothingElse) {
  in();
  quantize_checkpoint(folder_ / "in", folder_ / "out");
  quantize_checkpoint(folder_ / "in", folder_ / "out", vllm());
  EXPECT_EQ(Checkpoint::open(folder_ / "out").format(), CheckpointFormat::kVllmFp8);
  write_file(folder_ / "out/notes.txt", "mine");
  const auto never = [](std::string_view, size_t, size_t) { FAIL() << "refused only after the work"; };
  const auto kept = [&](const char* out, std::string_view why) {
    expect_error([&] { quantize_checkpoint(folder_ / "in", folder_ / out, {}, never); }, ErrorCode::kBadInput, why);
  };
  kept("out", "holds notes.txt");
  EXPECT_EQ(Checkpoint::open(folder_ / "out").format(), CheckpointFormat::kVllmFp8);

  // Files of the right names, but a model of somebody else's, none, or something that is no model.
  std::filesystem::create_directories(folder_ / "theirs");
  write_file(folder_ / "theirs/config.json", "{}");
  kept("theirs", "no earlier result");
  write_safetensors(folder_ / "theirs/model.safetensors", {matrix("a.weight", 4, 4)}, {{"format", "pt"}});
  const std::string bytes = read_file(folder_ / "theirs/model.safetensors");
  kept("theirs", "theirs/model.safetensors: not written by this command");
  EXPECT_EQ(read_file(folder_ / "theirs/model.safetensors"), bytes);
  write_file(folder_ / "theirs/model.safetensors", "weights");
  kept("theirs", "theirs/model.safetensors: ");
  EXPECT_EQ(read_file(folder_ / "theirs/model.safetensors"), "weights");
  EXPECT_EQ(folder_.list(), (std::vector<std::string>{"in", "out", "theirs"}));
  std::filesystem::create_directories(folder_ / "empty");
  quantize_checkpoint(folder_ / "in", folder_ / "empty");
}

TEST_F(QuantizeCheckpointTest, AnInterruptionLeavesTheOldResult) {
  in();
  quantize_checkpoint(folder_ / "in", folder_ / "out", vllm());
  for (size_t step = 0; step < 10; ++step) {  // tensors that are copied, quantized ones, files
    const auto stop = [step](std::string_view, size_t done, size_t) {
      if (done == step) throw std::runtime_error("interrupted");
    };
    EXPECT_THROW(quantize_checkpoint(folder_ / "in", folder_ / "out", {}, stop), std::runtime_error);
    EXPECT_EQ(Checkpoint::open(folder_ / "out").format(), CheckpointFormat::kVllmFp8);
    EXPECT_EQ(folder_.list(), (std::vector<std::string>{"in", "out"}));
  }
}

TEST_F(QuantizeCheckpointTest, AFullDiskLeavesNothing) {
  in();
  expect_io_error_on_a_full_disk(2048, [&] { quantize_checkpoint(folder_ / "in", folder_ / "out"); });
  EXPECT_EQ(folder_.list(), std::vector<std::string>{"in"});
}

}  // namespace
}  // namespace samebits
