// See overlap.h.
#include "core/overlap.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "samebits/error.h"

namespace samebits {
namespace {
constexpr std::array<std::string_view, 4> kNames = {"none", "launch", "weight", "chain"};  // in the order of the enum
}

std::string_view name(Overlap overlap) { return kNames[static_cast<size_t>(overlap)]; }

Overlap parse_overlap(std::string_view text) {
  if (const auto found = std::find(kNames.begin(), kNames.end(), text); found != kNames.end())
    return static_cast<Overlap>(found - kNames.begin());
  throw Error(ErrorCode::kBadInput, fmt::format("unknown overlap '{}'; there are: {}", text, fmt::join(kNames, ", ")));
}

}  // namespace samebits
