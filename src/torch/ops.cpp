// torch.ops.samebits: checks that need torch's words, output allocation, device and stream; the work is in src/core.
// Here the products and what they share; the other ops are in quantize.cpp and fused.cpp. Loaded by
// python/samebits/ops.py, which has the docstrings; what torch.compile needs is in fakes.py.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "core/overlap.h"
#include "cuda/cuda.h"
#include "cuda/tile.h"
#include "samebits/prove.h"
#include "samebits/rules.h"
#include "torch/view.h"

namespace samebits::torch_ops {
namespace {

// The shim for the current stream lies in libtorch_cuda, which a CPU build of torch does not have: found at run time.
void* current_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  void* stream = nullptr;
  if (!get || get(device, &stream) != AOTI_TORCH_SUCCESS)
    throw Error(ErrorCode::kNoDevice, "this torch has no CUDA streams: libtorch_cuda.so is not loaded");
  return stream;
}

// What load_certificate() read last. Earlier ones are kept: a call on another thread may still look at one.
struct Certified {
  Certificate certificate;
  std::once_flag once;
  std::vector<DeviceInfo> devices;
};
std::atomic<Certified*> loaded_certificate = nullptr;

/// The GPUs, certified where the certificate holds. Throws Error if one was loaded and holds for none of them.
const std::vector<DeviceInfo>& all_devices() {
  Certified* const loaded = loaded_certificate;
  if (!loaded) return cuda_devices();
  std::call_once(loaded->once, [&] { loaded->devices = certified_gpus(loaded->certificate); });
  return loaded->devices;
}

// Without `check` no GPU is touched (load_rules_op).
std::string load_certificate_op(std::string path, bool check) {
  if (path.empty()) {
    loaded_certificate = nullptr;
    return "";
  }
  auto certified = std::make_unique<Certified>();
  certified->certificate = load_certificate(path);
  if (check && cuda_devices().empty()) check_certificate(certified->certificate, cpu_device());
  static std::mutex mutex;
  static std::vector<std::unique_ptr<Certified>> all;
  const std::lock_guard lock(mutex);
  Certified* const loaded = all.emplace_back(std::move(certified)).get();
  Certified* const before = loaded_certificate.exchange(loaded);
  try {
    if (check) all_devices();
  } catch (...) {
    loaded_certificate = before;
    throw;
  }
  return fmt::format("{:016x}", loaded->certificate.digest);
}

const DeviceInfo& cuda_device(int64_t index) {
  const auto& devices = all_devices();
  if (index < 0 || index >= static_cast<int64_t>(devices.size()))
    throw Error(
        ErrorCode::kNoDevice,
        fmt::format("cuda:{}: samebits sees {} CUDA devices{}", index, devices.size(),
                    cuda::archs().empty() ? "; this build has no CUDA kernels: install it with nvcc in reach and "
                                            "SAMEBITS_ARCHS=all, or the architecture of the GPU, such as 90a"
                                          : ""));
  return devices[static_cast<size_t>(index)];
}

// What load_rules() read last. Earlier sets are kept: a call on another thread may still look at one.
std::atomic<const RuleSet*> loaded_rules = nullptr;

/// The rules that choose() asks. Throws Error if they were loaded and hold for no GPU of this process.
const RuleSet* rules_for(const DeviceInfo& device) {
  const RuleSet* rules = loaded_rules;
  if (!rules || device.is_cpu() || rules->holds_for(device)) return rules;
  for (const DeviceInfo& other : cuda_devices())
    if (rules->holds_for(other)) return nullptr;
  check_rules(*rules, device);
  return nullptr;
}

// Without `check` no GPU is touched: a process may fork after `import samebits`, and CUDA does not survive that.
std::string load_rules_op(std::string path, bool check) {
  if (path.empty()) {
    loaded_rules = nullptr;
    return "";
  }
  auto rules = std::make_unique<RuleSet>(load_rules(path));
  const auto holds = [&](const DeviceInfo& device) { return rules->holds_for(device); };
  if (check && std::none_of(cuda_devices().begin(), cuda_devices().end(), holds))
    check_rules(*rules, cuda_devices().empty() ? cpu_device() : cuda_devices().front());
  static std::mutex mutex;
  static std::vector<std::unique_ptr<const RuleSet>> all;
  const std::lock_guard lock(mutex);
  const RuleSet* const loaded = all.emplace_back(std::move(rules)).get();
  loaded_rules = loaded;
  return fmt::format("{:016x}", loaded->digest);
}

void run(const GemmProblem& problem, const Place& place, const Tensor& like, Overlap overlap) {
  if (problem.a.cols != problem.b.cols)
    bad_input("a is [{},{}] and b is [{},{}]: their K differs", problem.a.rows, problem.a.cols, problem.b.cols,
              problem.b.rows);
  if (problem.m() == 0 || problem.n() == 0) return;
  Launch launch = place.launch();
  launch.overlap = overlap;
  check_operands(problem.order, problem.a, problem.b);  // before the row is chosen: a wrong dtype is what is wrong
  const Plan plan = choose(*launch.device, problem.order, problem.m(), problem.n(), problem.k(), problem.out.dtype,
                           rules_for(*launch.device), problem.weight_only());
  std::optional<Tensor> workspace;  // torch's allocator keeps it alive until the stream has passed the kernel
  if (plan.workspace_bytes > 0) {
    workspace = empty(like, {plan.workspace_bytes}, ScalarType::Byte);
    launch.workspace = workspace->data_ptr();
    launch.workspace_bytes = plan.workspace_bytes;
  }
  gemm(problem, plan, launch);
}

void add_bias(GemmProblem& p, const Place& place, const std::optional<Tensor>& bias) {
  if (!bias) return;
  place.check("bias", *bias);
  if (bias->numel() != p.n() || bias->dim() < 1 || bias->size(-1) != p.n())
    bad_input("bias has shape {}; it must be [{}]", shape_of(*bias), p.n());
  p.bias = ConstView(bias->data_ptr(), dtype_of("bias", bias->scalar_type()), 1, p.n(), p.n(),
                     p.n() == 1 ? 1 : bias->stride(-1));
}

// Of an Order with block scales, or with scales in the epilogue.
GemmProblem problem_of(const Place& place, Order order, const Tensor& a, const Tensor& b, const Tensor& scale_a,
                       const Tensor& scale_b, const std::optional<Tensor>& bias) {
  GemmProblem p;
  p.order = order;
  p.a = view_of("a", a);
  p.b = transposed(view_of("b", b));
  if (p.m() == 0 || p.n() == 0) return p;
  const bool blocks = spec(order).scale_block != 0;
  p.scale_a = blocks ? block_scales_of("scale_a", scale_a) : scales_of("scale_a", scale_a, p.m());
  p.scale_b = blocks ? block_scales_of("scale_b", scale_b) : scales_of("scale_b", scale_b, p.n());
  place.check("b", b);
  place.check("scale_a", scale_a);
  place.check("scale_b", scale_b);
  add_bias(p, place, bias);
  return p;
}

Tensor multiply(const Tensor& a, const Tensor& b, const Tensor& scale_a, const Tensor& scale_b,
                const std::optional<Tensor>& bias, ScalarType out_dtype, Order order, const std::string& overlap) {
  const Place place(a);
  GemmProblem p = problem_of(place, order, a, b, scale_a, scale_b, bias);
  Tensor out = empty(a, {p.m(), p.n()}, out_dtype);
  p.out = view_of("out", out);
  run(p, place, a, parse_overlap(overlap));
  return out;
}

Tensor scaled_mm(const Tensor& a, const Tensor& b, const Tensor& scale_a, const Tensor& scale_b,
                 std::optional<Tensor> bias, ScalarType out_dtype, std::string order, std::string overlap) {
  const Order parsed = parse_order(order);
  if (spec(parsed).scale_block) bad_input("{} has block scales: block_scaled_mm computes it", order);
  return multiply(a, b, scale_a, scale_b, bias, out_dtype, parsed, overlap);
}

Tensor block_scaled_mm(const Tensor& a, const Tensor& b, const Tensor& scale_a, const Tensor& scale_b,
                       std::optional<Tensor> bias, ScalarType out_dtype, std::string order, std::string overlap) {
  const Order parsed = parse_order(order);
  if (!spec(parsed).scale_block) bad_input("{} has no block scales: scaled_mm computes it", order);
  return multiply(a, b, scale_a, scale_b, bias, out_dtype, parsed, overlap);
}

Tensor linear(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, std::optional<Tensor> scale,
              std::optional<ScalarType> out_dtype, std::string order, std::string overlap) {
  const Place place(x);
  GemmProblem p;
  p.order = parse_order(order);
  p.a = view_of("x", x);
  p.b = view_of("weight", weight);
  if (p.a.cols != p.b.cols) bad_input("x is {} and weight is {}: their K differs", shape_of(x), shape_of(weight));
  Tensor out = empty(x, {p.m(), p.n()}, out_dtype.value_or(x.scalar_type()));
  p.out = view_of("out", out);
  if (p.m() > 0 && p.n() > 0) {
    place.check("weight", weight);
    if (scale) place.check("scale", *scale), p.scale_b = scales_of("scale", *scale, p.n());
    add_bias(p, place, bias);
  }
  run(p, place, x, parse_overlap(overlap));
  return out;
}

// What vLLM checks and what it only assumes, each with its numbers. Strides are left to gemm(): honoured or refused.
void check_cutlass(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                   const std::optional<Tensor>& bias) {
  if (a.dim() != 2 || b.dim() != 2 || out.dim() != 2)
    bad_input("a is {}, b is {}, out is {}; each must have two dimensions", shape_of(a), shape_of(b), shape_of(out));
  if (a.size(1) != b.size(0) || out.size(0) != a.size(0) || out.size(1) != b.size(1))
    bad_input("a is {} and b is {}: out is {}, it must be [{},{}] and K must agree", shape_of(a), shape_of(b),
              shape_of(out), a.size(0), b.size(1));
  for (const auto& [what, t] : {std::pair("a", &a), std::pair("b", &b)})
    if (t->scalar_type() != ScalarType::Float8_e4m3fn)
      bad_input("{} is {}; cutlass_scaled_mm takes float8_e4m3fn", what, torch::headeronly::toString(t->scalar_type()));
  if (out.scalar_type() != ScalarType::BFloat16 && out.scalar_type() != ScalarType::Half)
    bad_input("out is {}; it must be bfloat16 or float16", torch::headeronly::toString(out.scalar_type()));
  if (a.size(0) == 0 || b.size(1) == 0) return;
  const int64_t m = a.size(0), n = b.size(1);
  const bool plain =
      (a_scales.numel() == 1 || a_scales.numel() == m) && (b_scales.numel() == 1 || b_scales.numel() == n);
  if (!plain)
    bad_input(
        "a_scales is {} and b_scales is {} for m={} n={}: 1 or {} and 1 or {} values are computed; block scales "
        "[{},{}] and [{},{}] are not",
        shape_of(a_scales), shape_of(b_scales), m, n, m, n, m, groups_along(a.size(1)), groups_along(a.size(1)),
        groups_along(n));
  if (!a_scales.is_contiguous() || !b_scales.is_contiguous())
    bad_input("a_scales {} and b_scales {} must be contiguous", shape_of(a_scales), shape_of(b_scales));
  if (!bias) return;
  if (bias->dim() != 1 || bias->numel() != n || !bias->is_contiguous())
    bad_input("bias has shape {}; it must be [{}], contiguous", shape_of(*bias), n);
  if (bias->scalar_type() != out.scalar_type())
    bad_input("bias is {}; it must have the dtype of out, {}", torch::headeronly::toString(bias->scalar_type()),
              torch::headeronly::toString(out.scalar_type()));
}

void cutlass_scaled_mm(Tensor out, const Tensor& a, const Tensor& b, const Tensor& a_scales, const Tensor& b_scales,
                       std::optional<Tensor> bias) {
  check_cutlass(out, a, b, a_scales, b_scales, bias);
  const Place place(a);
  place.check("out", out);
  GemmProblem p = problem_of(place, Order::kHopperFast, a, b, a_scales, b_scales, bias);
  p.out = view_of("out", out);
  run(p, place, a, Overlap::kLaunch);  // vLLM's schema cannot say that b is ready
}

std::string kernel(int64_t device, std::string order, int64_t m, int64_t n, int64_t k, ScalarType out_dtype,
                   bool weight_only) {
  const DeviceInfo& info = device < 0 ? cpu_device() : cuda_device(device);
  const Dtype out = dtype_of("out", out_dtype);
  return std::string(choose(info, parse_order(order), m, n, k, out, rules_for(info), weight_only).kernel);
}

}  // namespace

Place::Place(const Tensor& t) : device_(t.device()) {
  if (t.is_cpu()) {
    uint32_t threads = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&threads));
    launch_.threads = static_cast<int>(threads);
    return;
  }
  const int32_t index = t.get_device_index();
  guard_.emplace(index);
  launch_.device = &cuda_device(index);
  cuda::set_device(index);  // this library has a CUDA runtime of its own
  launch_.stream = current_stream(index);
}

void Place::check(const char* what, const Tensor& other) const {
  if (other.device() != device_)
    bad_input("{} is not on the device of the first operand: {} and {}", what,
              other.is_cpu() ? "cpu" : fmt::format("cuda:{}", other.get_device_index()),
              device_.is_cpu() ? "cpu" : fmt::format("cuda:{}", device_.index()));
}

}  // namespace samebits::torch_ops

STABLE_TORCH_LIBRARY(samebits, m) {
  m.def(
      "scaled_mm(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, Tensor? bias=None, "
      "ScalarType out_dtype=bfloat16, str order=\"hopper-fast\", str overlap=\"launch\") -> Tensor");
  m.def(
      "block_scaled_mm(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, Tensor? bias=None, "
      "ScalarType out_dtype=bfloat16, str order=\"hopper-block128\", str overlap=\"launch\") -> Tensor");
  m.def(
      "linear(Tensor x, Tensor weight, Tensor? bias=None, Tensor? scale=None, ScalarType? out_dtype=None, "
      "str order=\"hopper-bf16\", str overlap=\"launch\") -> Tensor");
  m.def("cutlass_scaled_mm(Tensor! out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias) -> ()");
  m.def("kernel(int device, str order, int m, int n, int k, ScalarType out_dtype, bool weight_only=False) -> str");
  m.def("load_rules(str path, bool check) -> str");
  m.def("load_certificate(str path, bool check) -> str");
}

#define SAMEBITS_TORCH_IMPL(key)                                     \
  STABLE_TORCH_LIBRARY_IMPL(samebits, key, m) {                      \
    namespace ops = samebits::torch_ops;                             \
    m.impl("scaled_mm", TORCH_BOX(&ops::scaled_mm));                 \
    m.impl("block_scaled_mm", TORCH_BOX(&ops::block_scaled_mm));     \
    m.impl("linear", TORCH_BOX(&ops::linear));                       \
    m.impl("cutlass_scaled_mm", TORCH_BOX(&ops::cutlass_scaled_mm)); \
  }
SAMEBITS_TORCH_IMPL(CPU)
SAMEBITS_TORCH_IMPL(CUDA)
STABLE_TORCH_LIBRARY_IMPL(samebits, CompositeExplicitAutograd, m) {
  m.impl("kernel", TORCH_BOX(&samebits::torch_ops::kernel));
  m.impl("load_rules", TORCH_BOX(&samebits::torch_ops::load_rules_op));
  m.impl("load_certificate", TORCH_BOX(&samebits::torch_ops::load_certificate_op));
}
