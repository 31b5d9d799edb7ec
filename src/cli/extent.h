// The shapes that users type, bounded before anything multiplies them. Used by info, bench and tune.
#pragma once
#include <cstdint>
#include <string_view>

#include "core/shapes.h"

namespace samebits::cli {

/// A problem [M,K] x [N,K].
struct ProblemShape {
  int64_t m, n, k;
};

/// "64,5760,1920", the value of --shape. Throws Error(kBadInput) unless it is three numbers of 1 to INT32_MAX.
ProblemShape parse_shape(std::string_view text);

/// "5760,1920", the value of tune's --shape: a weight [N,K]. Throws Error(kBadInput) unless it is two such numbers.
Shape parse_weight_shape(std::string_view text);

/// `value`, given by `option`, if it is 1 to INT32_MAX; else throws Error(kBadInput).
int64_t check_extent(std::string_view option, int64_t value);

}  // namespace samebits::cli
