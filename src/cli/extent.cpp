// --shape m,n,k or n,k and its bounds: those of the kernels, which count rows and columns in 32 bits.
#include "cli/extent.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "samebits/error.h"

namespace samebits::cli {

namespace {

/// As many numbers as `names` ("m,n,k") has letters.
std::array<int64_t, 3> parse_extents(std::string_view text, std::string_view names) {
  const size_t count = (names.size() + 1) / 2;
  std::array<int64_t, 3> extents = {};
  const char *at = text.data(), *const end = at + text.size();
  bool good = true;
  for (size_t i = 0; i < count && good; ++i) {
    if (i > 0) good = at != end && *at++ == ',';
    const auto [next, error] = std::from_chars(at, end, extents[i]);
    good = good && error == std::errc() && extents[i] >= 1 && extents[i] <= INT32_MAX;
    at = next;
  }
  if (!good || at != end)
    throw Error(ErrorCode::kBadInput, fmt::format("--shape {}: it takes {}, {} numbers of 1 to {}", text, names,
                                                  count == 2 ? "two" : "three", INT32_MAX));
  return extents;
}

}  // namespace

ProblemShape parse_shape(std::string_view text) {
  const auto [m, n, k] = parse_extents(text, "m,n,k");
  return {m, n, k};
}

Shape parse_weight_shape(std::string_view text) {
  const auto [n, k, _] = parse_extents(text, "n,k");
  return {n, k};
}

int64_t check_extent(std::string_view option, int64_t value) {
  if (value < 1 || value > INT32_MAX)
    throw Error(ErrorCode::kBadInput, fmt::format("{} {}: it takes numbers of 1 to {}", option, value, INT32_MAX));
  return value;
}

}  // namespace samebits::cli
