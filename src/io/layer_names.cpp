// Naming conventions of Hugging Face models.
#include "io/layer_names.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace samebits {
namespace {

std::vector<std::string> components(std::string_view layer) {
  std::vector<std::string> parts(1);
  for (char c : layer) {
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return parts;
}

template <size_t N>
bool one_of(std::string_view text, const std::array<std::string_view, N>& list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

template <class Predicate>
bool any(const std::vector<std::string>& parts, Predicate predicate) {
  return std::any_of(parts.begin(), parts.end(), predicate);
}

// A positive integer of the language model's config, or 0.
int64_t setting(const Json& config, const char* name) {
  const Json* at = &config;
  if (config.is_object() && !config.contains(name) && config.contains("text_config")) at = &config.at("text_config");
  if (!at->is_object() || !at->contains(name) || !at->at(name).is_number_unsigned()) return 0;
  const uint64_t value = at->at(name).get<uint64_t>();
  return value < (uint64_t{1} << 31) ? static_cast<int64_t>(value) : 0;
}

}  // namespace

std::optional<std::string_view> layer_of_weight(std::string_view tensor) {
  constexpr std::string_view kSuffix = ".weight";
  if (!tensor.ends_with(kSuffix) || tensor.size() == kSuffix.size()) return std::nullopt;
  return tensor.substr(0, tensor.size() - kSuffix.size());
}

bool is_expert(std::string_view layer) {
  return any(components(layer), [](const std::string& part) { return part == "experts"; });
}

bool is_embedding(std::string_view layer) {
  static constexpr std::array<std::string_view, 4> kTables = {"wte", "wpe", "shared", "relative_attention_bias"};
  return any(components(layer),
             [](const std::string& part) { return part.find("embed") != std::string::npos || one_of(part, kTables); });
}

std::string_view exclusion(std::string_view layer) {
  static constexpr std::array<std::string_view, 6> kTaskHeads = {"pooler", "classifier", "score",
                                                                 "cls",    "qa_outputs", "v_head"};
  const std::vector<std::string> parts = components(layer);
  const std::string& last = parts.back();
  if (last == "lm_head" || last == "embed_out" || last == "output") return "output head";
  if (is_embedding(layer)) return "embedding";
  if (any(parts,
          [](const std::string& part) { return part.find("norm") != std::string::npos || part.starts_with("ln_"); }))
    return "norm";
  if (last == "gate" || last == "shared_expert_gate" ||
      any(parts, [](const std::string& part) { return part == "router"; }))
    return "router";
  // vLLM builds these as plain layers, which cannot load FP8.
  if (any(parts, [](const std::string& part) { return one_of(part, kTaskHeads); })) return "task head";
  return {};
}

std::optional<std::vector<int64_t>> fused_rows(std::string_view layer, int64_t rows, const Json& config) {
  const std::string last = components(layer).back();
  if (last == "gate_up_proj" && rows % 2 == 0) return std::vector{rows / 2, rows / 2};
  if (last != "qkv_proj") return std::nullopt;
  const int64_t heads = setting(config, "num_attention_heads");
  if (heads == 0) return std::nullopt;
  const int64_t kv_heads = setting(config, "num_key_value_heads") ? setting(config, "num_key_value_heads") : heads;
  const int64_t head_dim =
      setting(config, "head_dim") ? setting(config, "head_dim") : setting(config, "hidden_size") / heads;
  const int64_t q = heads * head_dim, kv = kv_heads * head_dim;
  if (q == 0 || q + 2 * kv != rows) return std::nullopt;
  return std::vector{q, kv, kv};
}

}  // namespace samebits
