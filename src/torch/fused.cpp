// torch.ops.samebits, RMSNorm and SiLU * mul before a quantizer: outputs and checks that need torch's words; the work
// is in src/core/fused.cpp. Schemas and docstrings: python/samebits/fused.py.
#include "samebits/fused.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "numerics/float_env.h"
#include "torch/view.h"

namespace samebits::torch_ops {
namespace {

using Quantized = std::tuple<Tensor, Tensor>;

// A norm with everything but its output; `sum` keeps the residual's sum where there is a residual.
struct Norm {
  Place place;
  RmsNorm norm;
  std::optional<Tensor> sum;

  Norm(const Tensor& x, const std::optional<Tensor>& residual, const Tensor& weight, double epsilon) : place(x) {
    norm.x = view_of("x", x);
    place.check("weight", weight);
    if (weight.dim() != 1) bad_input("weight has shape {}; it must be [{}]", shape_of(weight), norm.x.cols);
    norm.weight = ConstView(weight.data_ptr(), dtype_of("weight", weight.scalar_type()), 1, weight.size(0),
                            weight.size(0), weight.size(0) <= 1 ? 1 : weight.stride(0));
    const FloatEnv env;
    norm.epsilon = static_cast<float>(epsilon);
    if (!residual) return;
    place.check("residual", *residual);
    sum = empty(x, {norm.x.rows, norm.x.cols}, x.scalar_type());
    norm.residual = view_of("residual", *residual);
    norm.residual_out = view_of("residual_out", *sum);
  }

  Tensor run(const Tensor& x) const {
    Tensor y = empty(x, {norm.x.rows, norm.x.cols}, x.scalar_type());
    rms_norm(norm, view_of("y", y), place.launch());
    return y;
  }

  Quantized run_quantize(const Tensor& x, const std::optional<Tensor>& scale_ub) const {
    Tensor q = empty(x, {norm.x.rows, norm.x.cols}, ScalarType::Float8_e4m3fn);
    Tensor scale = empty(x, {norm.x.rows, 1}, ScalarType::Float);
    rms_norm_quantize(norm, view_of("q", q), static_cast<float*>(scale.data_ptr()), upper_bound(place, scale_ub),
                      place.launch());
    return {q, scale};
  }

  Quantized run_groups(const Tensor& x, bool power_of_two) const {
    Tensor q = empty(x, {norm.x.rows, norm.x.cols}, ScalarType::Float8_e4m3fn);
    Tensor scale = empty_group_scales(x, norm.x.rows, norm.x.cols);
    rms_norm_quantize_per_group(norm, view_of("q", q), groups_of(scale, power_of_two), place.launch());
    return {q, scale};
  }
};

Tensor rms_norm_op(const Tensor& x, const Tensor& weight, double eps) {
  return Norm(x, std::nullopt, weight, eps).run(x);
}

std::tuple<Tensor, Tensor> add_rms_norm_op(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps) {
  const Norm norm(x, residual, weight, eps);
  return {norm.run(x), *norm.sum};
}

Quantized rms_norm_quantize_op(const Tensor& x, const Tensor& weight, double eps, std::optional<Tensor> scale_ub) {
  return Norm(x, std::nullopt, weight, eps).run_quantize(x, scale_ub);
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm_quantize_op(const Tensor& x, const Tensor& residual,
                                                            const Tensor& weight, double eps,
                                                            std::optional<Tensor> scale_ub) {
  const Norm norm(x, residual, weight, eps);
  const auto [q, scale] = norm.run_quantize(x, scale_ub);
  return {q, scale, *norm.sum};
}

Quantized rms_norm_quantize_per_group_op(const Tensor& x, const Tensor& weight, double eps, bool power_of_two) {
  return Norm(x, std::nullopt, weight, eps).run_groups(x, power_of_two);
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm_quantize_per_group_op(const Tensor& x, const Tensor& residual,
                                                                      const Tensor& weight, double eps,
                                                                      bool power_of_two) {
  const Norm norm(x, residual, weight, eps);
  const auto [q, scale] = norm.run_groups(x, power_of_two);
  return {q, scale, *norm.sum};
}

Tensor silu_mul_op(const Tensor& x) {
  const Place place(x);
  const View view = view_of("x", x);
  Tensor y = empty(x, {view.rows, view.cols / 2}, x.scalar_type());
  silu_mul(view, view_of("y", y), place.launch());
  return y;
}

Quantized silu_mul_quantize_op(const Tensor& x, std::optional<Tensor> scale_ub) {
  const Place place(x);
  const View view = view_of("x", x);
  Tensor q = empty(x, {view.rows, view.cols / 2}, ScalarType::Float8_e4m3fn);
  Tensor scale = empty(x, {view.rows, 1}, ScalarType::Float);
  silu_mul_quantize(view, view_of("q", q), static_cast<float*>(scale.data_ptr()), upper_bound(place, scale_ub),
                    place.launch());
  return {q, scale};
}

Quantized silu_mul_quantize_per_group_op(const Tensor& x, bool power_of_two) {
  const Place place(x);
  const View view = view_of("x", x);
  Tensor q = empty(x, {view.rows, view.cols / 2}, ScalarType::Float8_e4m3fn);
  Tensor scale = empty_group_scales(x, view.rows, view.cols / 2);
  silu_mul_quantize_per_group(view, view_of("q", q), groups_of(scale, power_of_two), place.launch());
  return {q, scale};
}

}  // namespace
}  // namespace samebits::torch_ops

STABLE_TORCH_LIBRARY_FRAGMENT(samebits, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor y, Tensor residual_out)");
  m.def("rms_norm_quantize(Tensor x, Tensor weight, float eps, Tensor? scale_ub=None) -> (Tensor q, Tensor scale)");
  m.def(
      "add_rms_norm_quantize(Tensor x, Tensor residual, Tensor weight, float eps, Tensor? scale_ub=None) -> "
      "(Tensor q, Tensor scale, Tensor residual_out)");
  m.def("silu_mul(Tensor x) -> Tensor");
  m.def("silu_mul_quantize(Tensor x, Tensor? scale_ub=None) -> (Tensor q, Tensor scale)");
  m.def(
      "rms_norm_quantize_per_group(Tensor x, Tensor weight, float eps, bool power_of_two=False) -> "
      "(Tensor q, Tensor scale)");
  m.def(
      "add_rms_norm_quantize_per_group(Tensor x, Tensor residual, Tensor weight, float eps, "
      "bool power_of_two=False) -> (Tensor q, Tensor scale, Tensor residual_out)");
  m.def("silu_mul_quantize_per_group(Tensor x, bool power_of_two=False) -> (Tensor q, Tensor scale)");
}

#define SAMEBITS_TORCH_FUSED_IMPL(key)                                                              \
  STABLE_TORCH_LIBRARY_IMPL(samebits, key, m) {                                                     \
    namespace ops = samebits::torch_ops;                                                            \
    m.impl("rms_norm", TORCH_BOX(&ops::rms_norm_op));                                               \
    m.impl("add_rms_norm", TORCH_BOX(&ops::add_rms_norm_op));                                       \
    m.impl("rms_norm_quantize", TORCH_BOX(&ops::rms_norm_quantize_op));                             \
    m.impl("add_rms_norm_quantize", TORCH_BOX(&ops::add_rms_norm_quantize_op));                     \
    m.impl("silu_mul", TORCH_BOX(&ops::silu_mul_op));                                               \
    m.impl("silu_mul_quantize", TORCH_BOX(&ops::silu_mul_quantize_op));                             \
    m.impl("rms_norm_quantize_per_group", TORCH_BOX(&ops::rms_norm_quantize_per_group_op));         \
    m.impl("add_rms_norm_quantize_per_group", TORCH_BOX(&ops::add_rms_norm_quantize_per_group_op)); \
    m.impl("silu_mul_quantize_per_group", TORCH_BOX(&ops::silu_mul_quantize_per_group_op));         \
  }
SAMEBITS_TORCH_FUSED_IMPL(CPU)
SAMEBITS_TORCH_FUSED_IMPL(CUDA)
