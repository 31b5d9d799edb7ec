// The quantizers of torch.ops.samebits: see ops.cpp.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "samebits/quantize.h"
#include "torch/view.h"

namespace samebits::torch_ops {
namespace {

using Quantized = std::tuple<Tensor, Tensor>;

Quantized quantize_per_token_padded(const Tensor& x, int64_t columns, std::optional<Tensor> scale_ub) {
  const Place place(x);
  const View view = view_of("x", x);
  Tensor q = empty(x, {view.rows, columns}, ScalarType::Float8_e4m3fn);
  Tensor scale = empty(x, {view.rows, 1}, ScalarType::Float);
  quantize_per_token(view, view_of("q", q), static_cast<float*>(scale.data_ptr()), upper_bound(place, scale_ub),
                     place.launch());
  return {q, scale};
}

Quantized quantize_per_token_op(const Tensor& x, std::optional<Tensor> scale_ub) {
  return quantize_per_token_padded(x, view_of("x", x).cols, std::move(scale_ub));
}

Tensor quantize_static_padded(const Tensor& x, const Tensor& scale, int64_t columns) {
  const Place place(x);
  const View view = view_of("x", x);
  place.check("scale", scale);
  if (scale.numel() != 1 || scale.scalar_type() != ScalarType::Float)
    bad_input("scale has shape {}; a static scale is one float32 value", shape_of(scale));
  Tensor q = empty(x, {view.rows, columns}, ScalarType::Float8_e4m3fn);
  quantize_static(view, static_cast<const float*>(scale.data_ptr()), view_of("q", q), place.launch());
  return q;
}

Tensor quantize_static_op(const Tensor& x, const Tensor& scale) {
  return quantize_static_padded(x, scale, view_of("x", x).cols);
}

Quantized quantize_per_group_op(const Tensor& x, std::optional<int64_t> columns, bool power_of_two) {
  const Place place(x);
  const View view = view_of("x", x);
  Tensor q = empty(x, {view.rows, columns.value_or(view.cols)}, ScalarType::Float8_e4m3fn);
  Tensor scale = empty_group_scales(x, view.rows, view.cols);
  quantize_per_group(view, view_of("q", q), groups_of(scale, power_of_two), place.launch());
  return {q, scale};
}

Quantized quantize_weight_blocks(const Tensor& w) {
  const Place place(w);
  const View view = view_of("w", w);
  Tensor q = empty(w, {view.rows, view.cols}, ScalarType::Float8_e4m3fn);
  Tensor scale = empty(w, {groups_along(view.rows), groups_along(view.cols)}, ScalarType::Float);
  quantize_weight(view, Granularity::kPerBlock, view_of("q", q), static_cast<float*>(scale.data_ptr()), "w",
                  place.launch());
  return {q, scale};
}

Quantized quantize_weight_op(const Tensor& w, bool per_channel) {
  const Place place(w);
  const View view = view_of("w", w);
  Tensor q = empty(w, {view.rows, view.cols}, ScalarType::Float8_e4m3fn);
  Tensor scale = empty(w, {per_channel ? view.rows : 1}, ScalarType::Float);
  quantize_weight(view, per_channel ? Granularity::kPerChannel : Granularity::kPerTensor, view_of("q", q),
                  static_cast<float*>(scale.data_ptr()), "w", place.launch());
  return {q, scale};
}

Tensor dequantize_op(const Tensor& q, const Tensor& scale, ScalarType out_dtype) {
  const Place place(q);
  const View view = view_of("q", q);
  Tensor out = empty(q, {view.rows, view.cols}, out_dtype);
  if (view.rows == 0 || view.cols == 0) return out;
  place.check("scale", scale);
  const bool blocks = scale.dim() == 2 && scale.numel() > 1 && scale.size(0) == groups_along(view.rows) &&
                      scale.size(1) == groups_along(view.cols);
  dequantize(view, blocks ? block_scales_of("scale", scale) : scales_of("scale", scale, view.rows), view_of("out", out),
             place.launch());
  return out;
}

}  // namespace
}  // namespace samebits::torch_ops

STABLE_TORCH_LIBRARY_FRAGMENT(samebits, m) {
  m.def("quantize_per_token(Tensor x, Tensor? scale_ub=None) -> (Tensor q, Tensor scale)");
  m.def("quantize_per_token_padded(Tensor x, int columns, Tensor? scale_ub=None) -> (Tensor q, Tensor scale)");
  m.def("quantize_per_group(Tensor x, int? columns=None, bool power_of_two=False) -> (Tensor q, Tensor scale)");
  m.def("quantize_static(Tensor x, Tensor scale) -> Tensor");
  m.def("quantize_static_padded(Tensor x, Tensor scale, int columns) -> Tensor");
  m.def("quantize_weight(Tensor w, bool per_channel=True) -> (Tensor q, Tensor scale)");
  m.def("quantize_weight_blocks(Tensor w) -> (Tensor q, Tensor scale)");
  m.def("dequantize(Tensor q, Tensor scale, ScalarType out_dtype) -> Tensor");
}

#define SAMEBITS_TORCH_QUANTIZE_IMPL(key)                                            \
  STABLE_TORCH_LIBRARY_IMPL(samebits, key, m) {                                      \
    namespace ops = samebits::torch_ops;                                             \
    m.impl("quantize_per_token", TORCH_BOX(&ops::quantize_per_token_op));            \
    m.impl("quantize_per_token_padded", TORCH_BOX(&ops::quantize_per_token_padded)); \
    m.impl("quantize_per_group", TORCH_BOX(&ops::quantize_per_group_op));            \
    m.impl("quantize_static", TORCH_BOX(&ops::quantize_static_op));                  \
    m.impl("quantize_static_padded", TORCH_BOX(&ops::quantize_static_padded));       \
    m.impl("quantize_weight", TORCH_BOX(&ops::quantize_weight_op));                  \
    m.impl("quantize_weight_blocks", TORCH_BOX(&ops::quantize_weight_blocks));       \
    m.impl("dequantize", TORCH_BOX(&ops::dequantize_op));                            \
  }
SAMEBITS_TORCH_QUANTIZE_IMPL(CPU)
SAMEBITS_TORCH_QUANTIZE_IMPL(CUDA)
