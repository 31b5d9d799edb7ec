// The words for Overlap, as the command line and the torch ops take them.
#pragma once
#include <string_view>

#include "samebits/gemm.h"

namespace samebits {

/// "none", "launch", "weight", "chain".
std::string_view name(Overlap overlap);
/// The inverse. Throws Error(kBadInput) that lists the words.
Overlap parse_overlap(std::string_view text);

}  // namespace samebits
