// Plain text for a terminal: aligned columns and names that came from strangers' files.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "samebits/types.h"

namespace samebits::cli {

/// Rows of cells as lines; every column as wide as its widest cell, those in `right` aligned to the right.
std::string columns(const std::vector<std::vector<std::string>>& rows, const std::vector<bool>& right);

/// `text` with control characters replaced, C0 and C1: a tensor's name must not drive the terminal.
std::string plain(std::string_view text);

/// The bits of one element: "0x3f80", as many digits as the dtype has.
std::string hex(Dtype dtype, uint32_t bits);

}  // namespace samebits::cli
