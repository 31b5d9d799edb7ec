// Finds the values that no weight may hold. Called before a checkpoint is quantized or verified.
#include <fmt/format.h>

#include <cstring>
#include <optional>

#include "numerics/formats.h"
#include "samebits/error.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

// A code is bad if its magnitude is at least `first_bad`: NaNs lie above infinity, and infinity above all numbers.
template <class Code>
std::optional<Coordinate> find_at_least(const ConstView& v, Code first_bad) {
  constexpr Code kMagnitude = static_cast<Code>(~(Code{1} << (8 * sizeof(Code) - 1)));
  for (int64_t row = 0; row < v.rows; ++row)
    for (int64_t col = 0; col < v.cols; ++col) {
      Code code;
      std::memcpy(&code, v.at(row, col), sizeof code);
      if ((code & kMagnitude) >= first_bad) return Coordinate{row, col};
    }
  return std::nullopt;
}

std::optional<Coordinate> find(const ConstView& v, bool infinity_too) {
  const int nan_from = infinity_too ? 0 : 1;
  switch (v.dtype) {
    case Dtype::kE4m3: return find_at_least<uint8_t>(v, 0x7f);  // has no infinity
    case Dtype::kE5m2: return find_at_least<uint8_t>(v, static_cast<uint8_t>(0x7c + nan_from));
    case Dtype::kBf16: return find_at_least<uint16_t>(v, static_cast<uint16_t>(0x7f80 + nan_from));
    case Dtype::kF16: return find_at_least<uint16_t>(v, static_cast<uint16_t>(0x7c00 + nan_from));
    case Dtype::kF32: return find_at_least<uint32_t>(v, 0x7f800000u + static_cast<uint32_t>(nan_from));
  }
  return std::nullopt;
}

void refuse(const ConstView& v, const std::optional<Coordinate>& at, std::string_view what) {
  if (at)
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}[{},{}] is {}", what, at->row, at->col, load(v.dtype, v.at(at->row, at->col))));
}

}  // namespace

std::optional<Coordinate> find_nan(ConstView matrix) { return find(matrix, false); }
std::optional<Coordinate> find_non_finite(ConstView matrix) { return find(matrix, true); }
void check_no_nan(ConstView matrix, std::string_view what) { refuse(matrix, find_nan(matrix), what); }
void check_finite(ConstView matrix, std::string_view what) { refuse(matrix, find_non_finite(matrix), what); }

}  // namespace samebits
