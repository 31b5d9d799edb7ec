// Columns and harmless names.
#include "cli/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace samebits::cli {

std::string columns(const std::vector<std::vector<std::string>>& rows, const std::vector<bool>& right) {
  std::vector<size_t> width(right.size(), 0);
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += right[i] ? fmt::format("{:>{}}  ", row[i], width[i]) : fmt::format("{:<{}}  ", row[i], width[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

std::string plain(std::string_view text) {
  std::string out(text);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto byte = static_cast<unsigned char>(out[i]);
    // U+0080 to U+009F, such as a one-character CSI, are 0xc2 and 0x80 to 0x9f in UTF-8.
    const bool c1 = byte == 0xc2 && i + 1 < out.size() && static_cast<unsigned char>(out[i + 1]) < 0xa0;
    if (c1) out.erase(i, 1);
    if (c1 || byte < 0x20 || byte == 0x7f) out[i] = '?';
  }
  return out;
}

std::string hex(Dtype dtype, uint32_t bits) { return fmt::format("0x{:0{}x}", bits, 2 * size_of(dtype)); }

}  // namespace samebits::cli
