// The three configs: vLLM fp8, compressed-tensors, ModelOpt (nested or flat).
#include "io/fp8_scheme.h"

#include <fmt/format.h>

#include <optional>

namespace samebits {
namespace {

std::string text(const Json& json, const char* name) {
  return json.is_object() && json.contains(name) && json.at(name).is_string() ? json.at(name).get<std::string>() : "";
}

const Json* find_object(const Json& json, const char* name) {
  return json.is_object() && json.contains(name) && json.at(name).is_object() ? &json.at(name) : nullptr;
}

const Json* quantization_config(const Json& config) {
  for (const char* name : {"quantization_config", "compression_config"}) {
    if (const Json* found = find_object(config, name)) return found;
    if (const Json* inner = find_object(config, "text_config"))
      if (const Json* found = find_object(*inner, name)) return found;
  }
  return nullptr;
}

Fp8Scheme vllm_fp8(const ModelFiles& files, const Json& config) {
  const std::string scheme = text(config, "activation_scheme");
  if (config.contains("weight_block_size") && !config.at("weight_block_size").is_null()) {
    if (config.at("weight_block_size") != Json{128, 128})
      return {CheckpointFormat::kVllmFp8, Activations::kOther,
              "weight_block_size " + config.at("weight_block_size").dump() + "; [128,128] is covered"};
    if (scheme != "static") return {CheckpointFormat::kVllmFp8, Activations::kDynamic, {}, true};
  }
  if (scheme == "static") return {CheckpointFormat::kVllmFp8, Activations::kStatic, {}};
  if (scheme == "dynamic" || !config.contains("activation_scheme"))
    return {CheckpointFormat::kVllmFp8, Activations::kDynamic, {}};
  throw Error(ErrorCode::kBadInput, fmt::format("{}: config.json: activation_scheme {} is neither static nor dynamic",
                                                files.path().string(), config.at("activation_scheme").dump()));
}

// One group of config_groups whose weights are 8-bit floats; nothing for INT8 and 4-bit groups.
std::optional<Fp8Scheme> compressed_group(const Json& group) {
  const CheckpointFormat format = CheckpointFormat::kCompressedTensors;
  const Json* weights = find_object(group, "weights");
  if (!weights || weights->value("num_bits", Json(8)) != 8 || text(*weights, "type") != "float") return std::nullopt;
  const Json* input = find_object(group, "input_activations");
  if (!input) return Fp8Scheme{format, Activations::kOther, "weight-only FP8: the activations are not FP8"};
  const Json dynamic = input->value("dynamic", Json(false));
  const std::string strategy = text(*input, "strategy");
  if (dynamic == false) return Fp8Scheme{format, Activations::kStatic, {}};
  if (dynamic != true) return Fp8Scheme{format, Activations::kOther, "activations with dynamic = " + dynamic.dump()};
  if (strategy == "tensor")
    return Fp8Scheme{format, Activations::kOther,
                     "dynamic per-tensor activations: their scale depends on the whole batch"};
  const bool groups = strategy == "group" && input->value("group_size", Json(0)) == 128;
  if (groups && weights->value("block_structure", Json()) == Json{128, 128})
    return Fp8Scheme{format, Activations::kDynamic, {}, true};
  if (strategy != "token" && !strategy.empty())
    return Fp8Scheme{format, Activations::kOther, "activations quantized per " + strategy};
  return Fp8Scheme{format, Activations::kDynamic, {}};
}

Fp8Scheme compressed_tensors(const Json& config) {
  Fp8Scheme scheme{CheckpointFormat::kCompressedTensors, Activations::kUnsaid, {}};
  const Json* groups = find_object(config, "config_groups");
  if (!groups) return scheme;
  bool first = true;
  for (const auto& [name, group] : groups->items()) {
    const std::optional<Fp8Scheme> found = compressed_group(group);
    if (!found) continue;
    if (!first &&
        (found->activations != scheme.activations || found->reason != scheme.reason || found->blocks != scheme.blocks))
      return {scheme.format, Activations::kOther, "config_groups that quantize activations in different ways"};
    scheme = *found;
    first = false;
  }
  return scheme;
}

Fp8Scheme model_opt(const std::string& algorithm) {
  const CheckpointFormat format = CheckpointFormat::kModelOpt;
  if (algorithm == "FP8") return {format, Activations::kStatic, {}};
  if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") return {format, Activations::kDynamic, {}};
  return {format, Activations::kOther, "ModelOpt quant_algo " + printable(algorithm)};
}

}  // namespace

Fp8Scheme read_scheme(const ModelFiles& files) {
  if (const Json* config = quantization_config(files.config())) {
    const std::string method = text(*config, "quant_method");
    const Json* nested = find_object(*config, "quantization");
    const std::string algorithm = text(nested ? *nested : *config, "quant_algo");
    if (!algorithm.empty()) return model_opt(algorithm);
    if (method == "compressed-tensors") return compressed_tensors(*config);
    if (method.find("fp8") != std::string::npos) return vllm_fp8(files, *config);
  }
  if (!files.quant_config().is_null()) {
    const Json* nested = find_object(files.quant_config(), "quantization");
    return model_opt(text(nested ? *nested : files.quant_config(), "quant_algo"));
  }
  return {};
}

}  // namespace samebits
