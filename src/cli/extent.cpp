// --shape m,n,k and its bounds: those of the kernels, which count rows and columns in 32 bits.
#include "cli/extent.h"

#include <fmt/format.h>

#include <charconv>

#include "samebits/error.h"

namespace samebits::cli {

ProblemShape parse_shape(std::string_view text) {
  int64_t extents[3] = {};
  const char *at = text.data(), *const end = at + text.size();
  bool good = true;
  for (int i = 0; i < 3 && good; ++i) {
    if (i > 0) good = at != end && *at++ == ',';
    const auto [next, error] = std::from_chars(at, end, extents[i]);
    good = good && error == std::errc() && extents[i] >= 1 && extents[i] <= INT32_MAX;
    at = next;
  }
  if (!good || at != end)
    throw Error(ErrorCode::kBadInput,
                fmt::format("--shape {}: it takes m,n,k, three numbers of 1 to {}", text, INT32_MAX));
  return {extents[0], extents[1], extents[2]};
}

int64_t check_extent(std::string_view option, int64_t value) {
  if (value < 1 || value > INT32_MAX)
    throw Error(ErrorCode::kBadInput, fmt::format("{} {}: it takes numbers of 1 to {}", option, value, INT32_MAX));
  return value;
}

}  // namespace samebits::cli
