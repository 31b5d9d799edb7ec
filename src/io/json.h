// JSON from strangers: depth-limited, no duplicate names, and text that is safe to print in a message.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace samebits {

using Json = nlohmann::json;

/// Parses one JSON value. Throws Error(kBadInput), which opens with `what`, on malformed text, duplicate names in an
/// object, and nesting past `max_depth`: a safetensors header needs 3 levels, a config.json about 8.
Json parse_json(std::string_view text, std::string_view what, int max_depth);

/// `text` in double quotes with control characters escaped, cut after 120 bytes: names in a file are not ours.
std::string printable(std::string_view text);

}  // namespace samebits
