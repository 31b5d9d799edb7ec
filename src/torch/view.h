// torch tensors -> views and scales, without copies. Called by ops.cpp and fused.cpp. With them the only file that
// knows torch, and only its stable ABI, so that one binary loads with every torch >= 2.11.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>

#include "core/check.h"
#include "samebits/gemm.h"
#include "samebits/quantize.h"

namespace samebits::torch_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// "[2,3]", for messages.
inline std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i ? "," : "") + std::to_string(t.size(i));
  return text + "]";
}

/// The element type of a torch dtype. Throws Error(kBadInput) for a dtype that samebits does not compute with.
inline Dtype dtype_of(const char* what, ScalarType type) {
  switch (type) {
    case ScalarType::Float8_e4m3fn: return Dtype::kE4m3;
    case ScalarType::Float8_e5m2: return Dtype::kE5m2;
    case ScalarType::BFloat16: return Dtype::kBf16;
    case ScalarType::Half: return Dtype::kF16;
    case ScalarType::Float: return Dtype::kF32;
    default:
      bad_input("{} is {}; it must be float8_e4m3fn, float8_e5m2, bfloat16, float16 or float32", what,
                torch::headeronly::toString(type));
  }
}

/// A 2-D tensor [rows, cols] where it lies. Of a dimension of one element torch keeps any stride; it is made a regular
/// one here, because kernels check strides that they never use.
inline View view_of(const char* what, const Tensor& t) {
  if (t.dim() != 2) bad_input("{} has shape {}; it must have two dimensions", what, shape_of(t));
  View view(t.data_ptr(), dtype_of(what, t.scalar_type()), t.size(0), t.size(1), t.stride(0), t.stride(1));
  if (view.cols <= 1) view.col_stride = 1;
  if (view.rows <= 1) view.row_stride = (view.cols + 15) / 16 * 16;
  return view;
}

/// The same memory seen as [cols, rows].
inline View transposed(View v) {
  std::swap(v.rows, v.cols);
  std::swap(v.row_stride, v.col_stride);
  if (v.cols <= 1) v.col_stride = 1;
  if (v.rows <= 1) v.row_stride = (v.cols + 15) / 16 * 16;
  return v;
}

/// FP32 scales: one value, or `rows` values along one dimension of a tensor of any rank.
inline Scales scales_of(const char* what, const Tensor& t, int64_t rows) {
  if (t.scalar_type() != ScalarType::Float)
    bad_input("{} is {}; it must be float32", what, torch::headeronly::toString(t.scalar_type()));
  const auto* data = static_cast<const float*>(t.data_ptr());
  if (t.numel() == 1) return Scales::per_tensor(data);
  int64_t stride = 0, longer = 0;
  for (int64_t i = 0; i < t.dim(); ++i) {
    if (t.size(i) == 1) continue;
    stride = t.stride(i);
    ++longer;
  }
  if (t.numel() != rows || longer != 1)
    bad_input("{} has shape {} ({} values); it must have 1 value or {}, along one dimension", what, shape_of(t),
              t.numel(), rows);
  return stride == 0 ? Scales::per_tensor(data) : Scales::per_row(data, rows, stride);
}

/// FP32 block scales where they lie: a 2-D tensor of any strides.
inline Scales block_scales_of(const char* what, const Tensor& t) {
  if (t.scalar_type() != ScalarType::Float || t.dim() != 2)
    bad_input("{} is {} {}; block scales are float32 with two dimensions", what,
              torch::headeronly::toString(t.scalar_type()), shape_of(t));
  return {static_cast<const float*>(t.data_ptr()), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

/// Where a call on `t` runs: its device made current, torch's current stream on it, torch's thread count on the CPU.
/// Restores the device when it goes out of scope.
class Place {
 public:
  explicit Place(const Tensor& t);
  const Launch& launch() const { return launch_; }

  /// Throws Error(kBadInput) unless `other` lies on the same device.
  void check(const char* what, const Tensor& other) const;

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  torch::stable::Device device_;
  Launch launch_;
};

/// An output of the call, on the device of `like`.
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

/// Scales of groups of an input [rows, cols], tokens fastest: [rows, ceil(cols/128)] float32, strides (1, rows).
inline Tensor empty_group_scales(const Tensor& like, int64_t rows, int64_t cols) {
  return torch::stable::transpose(empty(like, {groups_along(cols), rows}, ScalarType::Float), 0, 1);
}
inline GroupScales groups_of(const Tensor& scale, bool power_of_two) {
  const View view(scale.data_ptr(), Dtype::kF32, scale.size(0), scale.size(1), scale.stride(0), scale.stride(1));
  return {view, power_of_two};
}

/// The bound of a dynamic scale: one FP32 value on the device, or null.
inline const float* upper_bound(const Place& place, const std::optional<Tensor>& scale_ub) {
  if (!scale_ub) return nullptr;
  place.check("scale_ub", *scale_ub);
  if (scale_ub->numel() != 1 || scale_ub->scalar_type() != ScalarType::Float)
    bad_input("scale_ub has shape {}; it must be one float32 value", shape_of(*scale_ub));
  return static_cast<const float*>(scale_ub->data_ptr());
}

}  // namespace samebits::torch_ops
