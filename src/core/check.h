// The checks that every public function shares: one sentence each, with the numbers.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cuda/tile.h"
#include "samebits/error.h"
#include "samebits/gemm.h"
#include "samebits/quantize.h"
#include "samebits/types.h"

namespace samebits {

template <class... Args>
[[noreturn]] void bad_input(fmt::format_string<Args...> text, Args&&... args) {
  throw Error(ErrorCode::kBadInput, fmt::format(text, std::forward<Args>(args)...));
}

inline void check_view(const char* what, const ConstView& v) {
  if (size_of(v.dtype) == 0) bad_input("{}: {} is no Dtype", what, static_cast<int>(v.dtype));
  if (v.rows < 0 || v.cols < 0) bad_input("{}: shape [{},{}] is negative", what, v.rows, v.cols);
  if (!v.data && v.rows && v.cols) bad_input("{}: null pointer for shape [{},{}]", what, v.rows, v.cols);
  if (v.row_stride < 0 || v.col_stride < 0)
    bad_input("{}: strides ({},{}) are negative", what, v.row_stride, v.col_stride);
}

/// A view that is written: no two of its elements may share an address, or the last writer would decide.
inline void check_written(const char* what, const ConstView& v) {
  check_view(what, v);
  if (v.rows == 0 || v.cols == 0) return;
  const int64_t row_span = (v.rows - 1) * v.row_stride, col_span = (v.cols - 1) * v.col_stride;
  const bool rows_apart = (v.rows == 1 || v.row_stride > col_span) && (v.cols == 1 || v.col_stride > 0);
  const bool cols_apart = (v.cols == 1 || v.col_stride > row_span) && (v.rows == 1 || v.row_stride > 0);
  if (!rows_apart && !cols_apart)
    bad_input("{}: elements of shape [{},{}] overlap at strides ({},{})", what, v.rows, v.cols, v.row_stride,
              v.col_stride);
}

inline void check_fp8(const char* what, const ConstView& v) {
  check_view(what, v);
  if (size_of(v.dtype) != 1) bad_input("{} is {}; it must be e4m3 or e5m2", what, name(v.dtype));
}

/// The operands that an Order takes, in any layout.
inline void check_operands(Order order, const ConstView& a, const ConstView& b) {
  if (spec(order).operands == Operands::kFp8) {
    check_fp8("a", a);
    return check_fp8("b", b);
  }
  check_view("a", a);
  check_view("b", b);
  if (size_of(a.dtype) != 2) bad_input("a is {}; {} takes bf16 or fp16", name(a.dtype), name(order));
  if (b.dtype != a.dtype && b.dtype != Dtype::kE4m3)
    bad_input("b is {} and a is {}; for {} b has the dtype of a, or is e4m3", name(b.dtype), name(a.dtype),
              name(order));
}

/// One value, or one for each of `rows` rows.
inline void check_scales(const char* what, const Scales& s, int64_t rows) {
  if (!s.data) bad_input("{}: null pointer", what);
  if (s.cols != 1 || (s.rows != 1 && s.rows != rows))
    bad_input("{}: shape [{},{}], it must be [1,1] or [{},1]", what, s.rows, s.cols, rows);
}

/// One value for each block: exactly [rows, cols], at any strides that are not negative.
inline void check_block_scales(const char* what, const Scales& s, int64_t rows, int64_t cols, Order order) {
  if (!s.data && rows && cols) bad_input("{}: null pointer", what);
  if (s.rows != rows || s.cols != cols)
    bad_input("{}: shape [{},{}], {} needs [{},{}]", what, s.rows, s.cols, name(order), rows, cols);
  if (s.row_stride < 0 || s.col_stride < 0)
    bad_input("{}: strides ({},{}) are negative", what, s.row_stride, s.col_stride);
}

/// Elements that are not FP8.
inline void check_float(const char* what, const ConstView& v) {
  check_view(what, v);
  if (size_of(v.dtype) == 1) bad_input("{} is {}; it must be bf16, fp16 or fp32", what, name(v.dtype));
}

/// The FP8 copy of x, which may have more columns for padding.
inline void check_pair(const ConstView& x, const ConstView& q, bool may_pad) {
  if (q.dtype != Dtype::kE4m3) bad_input("q is {}; it must be e4m3", name(q.dtype));
  check_written("q", q);
  if (q.rows != x.rows || (may_pad ? q.cols < x.cols : q.cols != x.cols))
    bad_input("q is [{},{}] for an input of [{},{}]", q.rows, q.cols, x.rows, x.cols);
}

/// The scales of the groups of x.
inline void check_groups(const GroupScales& scales, const ConstView& x) {
  const View& s = scales.scale;
  if (s.dtype != Dtype::kF32) bad_input("scale is {}; it must be fp32", name(s.dtype));
  const int64_t groups = groups_along(x.cols);
  if (s.rows != x.rows || s.cols != groups)
    bad_input("scale is [{},{}], groups of {} of an input of [{},{}] have [{},{}]", s.rows, s.cols, kGroup, x.rows,
              x.cols, x.rows, groups);
  check_written("scale", s);
}

/// A GPU that this build has kernels for. It reads rows at any stride; within a row elements are adjacent.
inline void check_gpu(const char* what, const ConstView& v, const Launch& launch) {
  const DeviceInfo& device = *launch.device;
  if (device.is_cpu()) return;
  const auto archs = cuda::archs();
  if (std::find(archs.begin(), archs.end(), device.arch) == archs.end())
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: this build has no kernels for sm_{}", describe(device), device.arch));
  if (v.col_stride != 1) bad_input("{}: column stride {} on a GPU, it must be 1", what, v.col_stride);
}

}  // namespace samebits
