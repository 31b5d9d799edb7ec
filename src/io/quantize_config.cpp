// Chooses the layers by name and shape, and writes the two kinds of quantization_config.
#include "io/quantize_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "io/layer_names.h"

namespace samebits {
namespace {

std::string model_type(const Json& config) {
  return config.is_object() && config.contains("model_type") && config["model_type"].is_string()
             ? config["model_type"].get<std::string>()
             : "";
}

void refuse_quantized(const ModelFiles& files) {
  for (const char* name : {"quantization_config", "compression_config"})
    if (files.config().is_object() && files.config().contains(name))
      bad_file(files.path(), "config.json has a {}: the model is quantized already", name);
  for (const Tensor* tensor : files.tensors())
    if (tensor->type->name.starts_with("F8_"))
      bad_file(files.path(), "tensor {} is {}: the model is quantized already", printable(tensor->name),
               describe(*tensor));
}

// Why a 2-D floating-point weight is left as it is; empty if it is not.
std::string reason_to_skip(const ModelFiles& files, const Tensor& weight, std::string_view layer,
                           const QuantizeOptions& options, std::set<std::string>& matched) {
  for (const std::string& pattern : options.ignore)
    if (fnmatch(pattern.c_str(), std::string(layer).c_str(), 0) == 0) {
      matched.insert(pattern);
      return "matches " + pattern;
    }
  if (const std::string_view reason = exclusion(layer); !reason.empty()) return std::string(reason);
  if (weight.elements() == 0) return "empty";
  // GPT-2 stores its layers as [K,N]; elsewhere a bias tells which extent is N.
  const std::string type = model_type(files.config());
  if (type == "gpt2" || type == "openai-gpt") return "Conv1D [K,N]";
  const Tensor* bias = files.find(fmt::format("{}.bias", layer));
  if (bias && bias->elements() != weight.shape[0])
    return fmt::format("bias of {} values for {} rows: not a linear layer [N,K]", bias->elements(), weight.shape[0]);
  return {};
}

// vLLM fuses these into one layer, which is FP8 as a whole or not at all.
std::vector<std::string> split_fusions(const QuantizePlan& plan) {
  static const std::array<std::set<std::string_view>, 3> kGroups = {
      {{"q_proj", "k_proj", "v_proj"}, {"query", "key", "value"}, {"gate_proj", "up_proj"}}};
  std::map<std::pair<std::string, size_t>, int>
      sides;  // (parent, group) -> 1: some quantized, 2: some skipped, 3: both
  const auto note = [&](std::string_view layer, int side) {
    const size_t dot = layer.rfind('.');
    const std::string_view last = dot == layer.npos ? layer : layer.substr(dot + 1);
    for (size_t g = 0; g < kGroups.size(); ++g)
      if (kGroups[g].contains(last)) sides[{std::string(layer.substr(0, dot == layer.npos ? 0 : dot)), g}] |= side;
  };
  for (const Tensor* weight : plan.weights) note(*layer_of_weight(weight->name), 1);
  for (const SkippedLayer& layer : plan.skipped) note(layer.name, 2);
  std::vector<std::string> warnings;
  for (const auto& [where, side] : sides)
    if (side == 3)
      warnings.push_back(fmt::format("{}: {} are one layer in vLLM, which cannot load it half quantized", where.first,
                                     fmt::join(kGroups[where.second], ", ")));
  return warnings;
}

Json compressed_tensors_config(const QuantizePlan& plan, const QuantizeOptions& options) {
  const bool channel = options.weights == Granularity::kPerChannel;
  const Json weights = {{"actorder", nullptr},
                        {"block_structure", nullptr},
                        {"dynamic", false},
                        {"group_size", nullptr},
                        {"num_bits", 8},
                        {"observer", "minmax"},
                        {"observer_kwargs", Json::object()},
                        {"strategy", channel ? "channel" : "tensor"},
                        {"symmetric", true},
                        {"type", "float"}};
  const Json input = {{"actorder", nullptr},
                      {"block_structure", nullptr},
                      {"dynamic", true},
                      {"group_size", nullptr},
                      {"num_bits", 8},
                      {"observer", nullptr},
                      {"observer_kwargs", Json::object()},
                      {"strategy", "token"},
                      {"symmetric", true},
                      {"type", "float"}};
  const Json group = {
      {"input_activations", input}, {"output_activations", nullptr}, {"targets", {"Linear"}}, {"weights", weights}};
  return {{"config_groups", {{"group_0", group}}},
          {"format", "float-quantized"},
          {"global_compression_ratio", nullptr},
          {"ignore", plan.ignore},
          {"kv_cache_scheme", nullptr},
          {"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"}};
}

}  // namespace

QuantizePlan plan_quantization(const ModelFiles& files, const QuantizeOptions& options) {
  refuse_quantized(files);
  QuantizePlan plan;
  std::set<std::string> matched;
  for (const Tensor* tensor : files.tensors()) {
    const bool stacked = is_expert(tensor->name) && tensor->shape.size() == 3;
    if (stacked && tensor->is_float())
      plan.skipped.push_back({tensor->name, fmt::format("stacked MoE experts {}", describe(*tensor))});
    const std::optional<std::string_view> layer = layer_of_weight(tensor->name);
    if (!layer || !tensor->is_float() || tensor->shape.size() != 2) continue;
    const std::string reason = reason_to_skip(files, *tensor, *layer, options, matched);
    if (reason.empty()) {
      plan.weights.push_back(tensor);
      continue;
    }
    plan.skipped.push_back({std::string(*layer), reason});
    if (!is_embedding(*layer) && reason != "norm") plan.ignore.push_back(std::string(*layer));
  }
  if (plan.weights.empty())
    bad_file(files.path(), "no linear layer to quantize among {} tensors ({} 2-D weights skipped)",
             files.tensors().size(), plan.skipped.size());
  // A tied output head has no tensor of its own but is a module all the same.
  const std::string architectures =
      files.config().is_object() ? files.config().value("architectures", Json()).dump() : "";
  const bool generates = architectures.find("ForCausalLM") != std::string::npos ||
                         architectures.find("ForConditionalGeneration") != std::string::npos;
  if (generates && !files.find("lm_head.weight")) plan.ignore.push_back("lm_head");

  plan.warnings = split_fusions(plan);
  for (const std::string& pattern : options.ignore)
    if (!matched.contains(pattern)) plan.warnings.push_back(fmt::format("--ignore {} matches no layer", pattern));
  return plan;
}

Json quantized_config(const ModelFiles& files, const QuantizePlan& plan, const QuantizeOptions& options) {
  Json config = files.config().is_object() ? files.config() : Json::object();
  if (options.format == CheckpointFormat::kCompressedTensors)
    config["quantization_config"] = compressed_tensors_config(plan, options);
  else if (options.weights == Granularity::kPerBlock)  // as DeepSeek-V3 and Qwen3-FP8 have it
    config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                     {"fmt", "e4m3"},
                                     {"modules_to_not_convert", plan.ignore},
                                     {"quant_method", "fp8"},
                                     {"weight_block_size", {128, 128}}};
  else
    config["quantization_config"] = {
        {"activation_scheme", "dynamic"}, {"ignored_layers", plan.ignore}, {"quant_method", "fp8"}};
  return config;
}

}  // namespace samebits
