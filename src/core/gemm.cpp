// check -> choose -> launch. The only place that decides what a GEMM call may look like.
#include <fmt/format.h>

#include "core/check.h"
#include "core/choose.h"
#include "cpu/gemm.h"
#include "cuda/cuda.h"

namespace samebits {
namespace {

void check_shapes(const GemmProblem& p) {
  check_operands(p.order, p.a, p.b);
  check_written("out", p.out);
  if (p.a.cols != p.b.cols)
    bad_input("a is [{},{}] and b is [{},{}]: their K differs", p.a.rows, p.a.cols, p.b.rows, p.b.cols);
  if (p.k() == 0) bad_input("K is 0: a is [{},{}]", p.a.rows, p.a.cols);
  if (p.out.rows != p.m() || p.out.cols != p.n())
    bad_input("out is [{},{}], a and b give [{},{}]", p.out.rows, p.out.cols, p.m(), p.n());
  if (size_of(p.out.dtype) == 1) bad_input("out is {}; it must be bf16, fp16 or fp32", name(p.out.dtype));
  const bool may_lack_scales = spec(p.order).operands == Operands::kHalf;
  if (p.scale_a || !may_lack_scales) check_scales("scale_a", p.scale_a, p.m());
  if (p.scale_b || !may_lack_scales) check_scales("scale_b", p.scale_b, p.n());
  if (!p.bias) return;
  check_view("bias", p.bias);
  if (p.bias.rows != 1 || p.bias.cols != p.n())
    bad_input("bias is [{},{}], it must be [1,{}]", p.bias.rows, p.bias.cols, p.n());
  if (size_of(p.bias.dtype) == 1) bad_input("bias is {}; it must be bf16, fp16 or fp32", name(p.bias.dtype));
}

// What TMA and the rows' epilogue can address. Never rebuilt from the shape: a padded row is read where it is.
void check_matrix(const char* what, const ConstView& v) {
  const int64_t step = 16 / static_cast<int64_t>(size_of(v.dtype));
  if (v.col_stride != 1) bad_input("{}: column stride {} on a GPU, it must be 1", what, v.col_stride);
  if (v.row_stride % step)
    bad_input("{}: row stride {} of {} elements, on a GPU it must be a multiple of {}", what, v.row_stride,
              name(v.dtype), step);
  if (v.rows > 1 && v.row_stride < v.cols)
    bad_input("{}: row stride {} is less than its {} columns", what, v.row_stride, v.cols);
  if (reinterpret_cast<uintptr_t>(v.data) % 16) bad_input("{}: address {} is not a multiple of 16 bytes", what, v.data);
}

void check_gpu(const GemmProblem& p) {
  const bool fp8 = spec(p.order).operands == Operands::kFp8;
  if (fp8 && (p.a.dtype != Dtype::kE4m3 || p.b.dtype != Dtype::kE4m3))
    bad_input("a is {} and b is {}: the GPU kernels take e4m3 (the CPU backend takes e5m2 as well)", name(p.a.dtype),
              name(p.b.dtype));
  check_matrix("a", p.a);
  check_matrix("b", p.b);
  check_matrix("out", p.out);
  const auto dense = [](const char* what, const Scales& s) {
    if (s && !s.is_per_tensor() && s.row_stride != 1)
      bad_input("{}: stride {} on a GPU, it must be 1", what, s.row_stride);
  };
  dense("scale_a", p.scale_a);
  dense("scale_b", p.scale_b);
  if (p.bias && (p.bias.dtype != p.out.dtype || p.bias.col_stride != 1))
    bad_input("bias is {} with stride {}: on a GPU it must have the output's dtype {} and stride 1", name(p.bias.dtype),
              p.bias.col_stride, name(p.out.dtype));
}

}  // namespace

void gemm(const GemmProblem& problem, const Launch& launch) {
  check_shapes(problem);
  if (problem.m() == 0 || problem.n() == 0) return;
  const Plan plan = choose(*launch.device, problem.order, problem.m(), problem.n(), problem.k(), problem.out.dtype,
                           launch.rules, problem.weight_only());
  gemm(problem, plan, launch);
}

void gemm(const GemmProblem& problem, const Plan& plan, const Launch& launch) {
  check_shapes(problem);
  if (problem.m() == 0 || problem.n() == 0) return;
  if (launch.device->is_cpu()) {
    if (plan.tile) bad_input("row {} was chosen for a GPU, the call runs on the CPU", plan.kernel);
    return cpu::gemm(problem, launch.threads);
  }
  if (!plan.tile) bad_input("the CPU backend was chosen, the call runs on {}", launch.device->name);
  if (plan.tile->order != problem.order)
    bad_input("row {} computes {}, the call asks for {}", plan.kernel, name(plan.tile->order), name(problem.order));
  if (const auto reason =
          reason_not(*plan.tile, *launch.device, problem.m(), problem.n(), problem.k(), problem.out.dtype))
    throw Error(ErrorCode::kUnsupported, *reason);
  if (plan.tile->weight_only != problem.weight_only())
    bad_input("row {} does not take a weight in {} beside activations in {}", plan.kernel, name(problem.b.dtype),
              name(problem.a.dtype));
  check_gpu(problem);
  if (launch.workspace_bytes < plan.workspace_bytes)
    bad_input("workspace of {} bytes, row {} needs {}", launch.workspace_bytes, plan.kernel, plan.workspace_bytes);
  plan.tile->kernel->launch(problem, launch);
}

}  // namespace samebits
