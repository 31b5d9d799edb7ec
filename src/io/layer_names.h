// What the names of a model's tensors say. Used by checkpoint.cpp and quantize_checkpoint.cpp.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace samebits {

/// The layer of a tensor called "<layer>.weight"; nothing for any other name.
std::optional<std::string_view> layer_of_weight(std::string_view tensor);

/// Whether the layer is an expert of a mixture (".experts."), whose GEMM is a grouped one.
bool is_expert(std::string_view layer);
/// Whether the layer is a table that is looked up, never multiplied with.
bool is_embedding(std::string_view layer);
/// Why a 2-D weight of this name is no linear layer to quantize; empty if it is one. BERT, Llama, Qwen, T5, NeoX names.
std::string_view exclusion(std::string_view layer);

/// Rows of each part of a layer that is stored fused: q, k, v of qkv_proj, from the head counts of config.json; gate
/// and up of gate_up_proj, which are halves. Nothing when the name, the config and `rows` do not settle it.
std::optional<std::vector<int64_t>> fused_rows(std::string_view layer, int64_t rows, const Json& config);

}  // namespace samebits
