// See overlap.h.
#include "core/overlap.h"

#include <fmt/format.h>

#include <array>

#include "samebits/error.h"

namespace samebits {
namespace {
constexpr std::array<std::string_view, 3> kNames = {"none", "launch", "weight"};  // in the order of the enum
}

std::string_view name(Overlap overlap) { return kNames[static_cast<size_t>(overlap)]; }

Overlap parse_overlap(std::string_view text) {
  for (Overlap overlap : {Overlap::kNone, Overlap::kLaunch, Overlap::kWeight})
    if (name(overlap) == text) return overlap;
  throw Error(ErrorCode::kBadInput, fmt::format("unknown overlap '{}'; there are: none, launch, weight", text));
}

}  // namespace samebits
