// The words of the library: element types and views. Nothing here owns memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

namespace samebits {

/// Element types. kE4m3 is float8_e4m3fn (no infinity, 0x7f and 0xff are NaN), kE5m2 is float8_e5m2.
enum class Dtype : uint8_t { kE4m3, kE5m2, kBf16, kF16, kF32 };

/// Bytes of one element.
constexpr size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kE4m3:
    case Dtype::kE5m2: return 1;
    case Dtype::kBf16:
    case Dtype::kF16: return 2;
    case Dtype::kF32: return 4;
  }
  return 0;
}

/// "e4m3", "e5m2", "bf16", "fp16", "fp32".
constexpr std::string_view name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kE4m3: return "e4m3";
    case Dtype::kE5m2: return "e5m2";
    case Dtype::kBf16: return "bf16";
    case Dtype::kF16: return "fp16";
    case Dtype::kF32: return "fp32";
  }
  return "?";
}

/// The inverse of name(); nothing for any other text.
constexpr std::optional<Dtype> parse_dtype(std::string_view text) {
  for (Dtype dtype : {Dtype::kE4m3, Dtype::kE5m2, Dtype::kBf16, Dtype::kF16, Dtype::kF32})
    if (name(dtype) == text) return dtype;
  return std::nullopt;
}

/// A matrix in somebody else's memory: rows x cols elements, strides in elements.
template <class Void>
struct BasicView {
  Void* data = nullptr;
  Dtype dtype = Dtype::kE4m3;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  int64_t col_stride = 1;

  BasicView() = default;
  /// Dense row-major.
  BasicView(Void* data, Dtype dtype, int64_t rows, int64_t cols) : BasicView(data, dtype, rows, cols, cols) {}
  BasicView(Void* data, Dtype dtype, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride = 1)
      : data(data), dtype(dtype), rows(rows), cols(cols), row_stride(row_stride), col_stride(col_stride) {}
  /// A mutable view reads as a const one.
  template <class Other>
  requires(std::is_same_v<Void, const void>&& std::is_same_v<Other, void>) BasicView(const BasicView<Other>& v)
      : BasicView(v.data, v.dtype, v.rows, v.cols, v.row_stride, v.col_stride) {}

  /// Whether there is a matrix at all (an absent bias is an empty view).
  explicit operator bool() const { return data != nullptr; }
  /// Address of element [row, col].
  Void* at(int64_t row, int64_t col) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    return static_cast<Byte*>(data) + (row * row_stride + col * col_stride) * static_cast<int64_t>(size_of(dtype));
  }
  /// Rows [first, first + count) of this view.
  BasicView slice_rows(int64_t first, int64_t count) const {
    return BasicView(at(first, 0), dtype, count, cols, row_stride, col_stride);
  }
  /// Columns [first, first + count) of this view.
  BasicView slice_cols(int64_t first, int64_t count) const {
    return BasicView(at(0, first), dtype, rows, count, row_stride, col_stride);
  }
};
using View = BasicView<void>;
using ConstView = BasicView<const void>;

/// FP32 scales of an operand: [1,1] for one value, [rows,1] for one per row (token of a, channel of b). Without data
/// there is none, which reads as exactly 1 where an Order allows it: 1 * x has the bits of x.
struct Scales {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 1;
  int64_t row_stride = 1;
  int64_t col_stride = 1;

  static Scales per_tensor(const float* value) { return {value, 1, 1, 0, 0}; }
  static Scales per_row(const float* values, int64_t rows, int64_t stride = 1) { return {values, rows, 1, stride, 0}; }
  /// Whether there are scales at all.
  explicit operator bool() const { return data != nullptr; }
  bool is_per_tensor() const { return rows == 1 && cols == 1; }
  /// The scale of row `row`, whether there is one for all or one for each.
  float of_row(int64_t row) const { return data ? data[rows == 1 ? 0 : row * row_stride] : 1.0f; }
};

}  // namespace samebits
