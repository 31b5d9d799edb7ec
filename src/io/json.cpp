// nlohmann-json with a callback that refuses what a DOM would hide.
#include "io/json.h"

#include <fmt/format.h>

#include <unordered_set>
#include <vector>

#include "samebits/error.h"

namespace samebits {

Json parse_json(std::string_view text, std::string_view what, int max_depth) {
  std::vector<std::unordered_set<std::string>> names;  // of the objects that are open
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    if ((event == Event::object_start || event == Event::array_start) && depth >= max_depth)
      throw Error(ErrorCode::kBadInput, fmt::format("{}: JSON nested more than {} levels deep", what, max_depth));
    if (event == Event::object_start) names.emplace_back();
    if (event == Event::object_end) names.pop_back();
    if (event == Event::key && !names.back().insert(parsed.get_ref<const std::string&>()).second)
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: the name {} appears twice", what, printable(parsed.get_ref<const std::string&>())));
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const nlohmann::json::exception& e) {
    throw Error(ErrorCode::kBadInput, fmt::format("{}: not JSON: {}", what, printable(e.what())));
  }
}

std::string printable(std::string_view text) {
  constexpr size_t kLimit = 120;
  const std::string shown(text.substr(0, kLimit));
  // Replaces what is not UTF-8, for example a code point cut in two by the limit.
  const std::string json = Json(shown).dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > kLimit ? json + "..." : json;
}

}  // namespace samebits
