// Runs a problem whose data lies in host memory on the CPU or on a GPU, so that one test holds every backend to the
// same bits. Tests are instances over places(): a machine without a GPU simply has fewer of them.
#pragma once
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bits.h"
#include "cuda/cuda.h"
#include "half.h"
#include "numerics/formats.h"
#include "numerics/reference.h"
#include "samebits/gemm.h"

namespace samebits::testing {

/// The CPU and every GPU that a row of the tables can run on.
inline std::vector<const DeviceInfo*> places() {
  std::vector<const DeviceInfo*> all = {&cpu_device()};
  for (const DeviceInfo& gpu : cuda_devices())
    for (const Tile& tile : cuda::tiles())
      if (tile.arch == gpu.arch) {
        all.push_back(&gpu);
        break;
      }
  return all;
}

inline std::vector<const DeviceInfo*> gpus() {
  auto all = places();
  all.erase(all.begin());
  return all;
}

/// Names of the rows of `order` that can write `out` and take such a weight; "cpu" on the CPU.
inline std::vector<std::string_view> rows(const DeviceInfo& device, Order order, Dtype out = Dtype::kBf16,
                                          bool weight_only = false) {
  std::vector<std::string_view> names;
  for (std::string_view kernel : kernels(device, order, out)) {
    bool takes = device.is_cpu();
    for (const Tile& tile : cuda::tiles()) takes = takes || (tile.name == kernel && tile.weight_only == weight_only);
    if (takes) names.push_back(kernel);
  }
  return names;
}

/// The Orders that the place has a row for.
inline std::vector<Order> orders_on(const DeviceInfo& device) {
  std::vector<Order> orders;
  for (const OrderSpec& s : kOrders)
    if (!rows(device, s.order).empty()) orders.push_back(s.order);
  return orders;
}

inline std::string place_name(const ::testing::TestParamInfo<const DeviceInfo*>& info) {
  return info.param->is_cpu() ? "cpu" : "cuda" + std::to_string(info.param->ordinal);
}

/// One GEMM with its data in host memory.
struct HostProblem {
  Order order;
  Matrix a, b;
  std::vector<float> scale_a, scale_b;
  std::optional<Matrix> bias;
  Dtype out = Dtype::kBf16;
  int64_t out_stride = 0;  // 0: dense

  GemmProblem on_host(Matrix& result) const {
    return {order,
            a.view(),
            b.view(),
            view_of(order, scale_a, a.cols),
            view_of(order, scale_b, b.cols),
            bias ? bias->view() : ConstView(),
            result.view()};
  }
};

/// Operands of an Order: e4m3, or bf16.
inline std::pair<Matrix, Matrix> random_operands(Random& random, Order order, Data kind, int64_t m, int64_t n,
                                                 int64_t k) {
  if (spec(order).operands == Operands::kHalf) return half_operands(random, half_data(kind), Dtype::kBf16, m, n, k);
  Matrix a = fp8_matrix(random, kind, m, k);
  return {std::move(a), fp8_matrix(random, kind, n, k)};
}

/// A problem with random data of one kind; per-token and per-channel scales, or one for each block.
inline HostProblem random_problem(Random& random, Order order, Data kind, int64_t m, int64_t n, int64_t k,
                                  Dtype out = Dtype::kBf16, bool with_bias = false) {
  auto [a, b] = random_operands(random, order, kind, m, n, k);
  HostProblem p{order,
                std::move(a),
                std::move(b),
                random_scales(random, scales_of_a(order, m, k)),
                random_scales(random, scales_of_b(order, n, k)),
                std::nullopt,
                out};
  if (with_bias) {
    p.bias.emplace(out, 1, n);
    for (int64_t i = 0; i < n; ++i) {
      const float x = random_scales(random, 1)[0] * 100;
      store(out, p.bias->view().at(0, i), x);
    }
  }
  return p;
}

/// The same with scales and biases at the edges of FP32, a row of zeros, and NaN codes in one row of a and one of b.
inline HostProblem edge_problem(Random& random, Order order, int64_t m, int64_t n, int64_t k, Dtype out,
                                bool with_bias) {
  HostProblem p = random_problem(random, order, Data::kAllPatterns, m, n, k, out, with_bias);
  const std::vector<float> edges = edge_values();
  for (size_t i = 0; i < p.scale_a.size(); i += 2) p.scale_a[i] = edges[i / 2 % edges.size()];
  for (size_t i = 0; i < p.scale_b.size(); i += 3) p.scale_b[i] = edges[i / 3 % edges.size()];
  for (int64_t i = 0; with_bias && i < n; i += 5)
    store(out, p.bias->view().at(0, i), edges[static_cast<size_t>(i / 5) % edges.size()]);
  std::fill_n(p.a.bytes.begin(), k * static_cast<int64_t>(size_of(p.a.dtype)), std::byte{0});
  store(p.a.dtype, p.a.view().at(m - 1, k / 2), std::numeric_limits<float>::quiet_NaN());
  std::memset(p.b.view().at(n / 2, k - 1), 0xff, size_of(p.b.dtype));  // a NaN of the other sign
  return p;
}

/// What the CPU says of a problem: the scalar reference for the CPU backend, the CPU backend for a GPU.
inline Matrix expected_on(const DeviceInfo& device, const HostProblem& p) {
  Matrix want(p.out, p.a.rows, p.b.rows, p.out_stride);
  if (device.is_cpu())
    reference_gemm(p.on_host(want));
  else
    gemm(p.on_host(want));
  return want;
}

/// A problem with fp32 out computed by `run` in two halves of K, added in FP32: what no kernel may do.
template <class Run>
Matrix in_two_halves_of_k(const HostProblem& p, Run&& run) {
  const int64_t half = p.a.cols / 2;
  std::optional<Matrix> sum;
  for (int64_t h = 0; h < 2; ++h) {
    HostProblem part = p;
    part.a = Matrix(p.a.dtype, p.a.rows, half);
    part.b = Matrix(p.b.dtype, p.b.rows, half);
    const auto cut = [&](const Matrix& from, Matrix& to) {
      const auto bytes = static_cast<size_t>(half) * size_of(from.dtype);
      for (int64_t r = 0; r < from.rows; ++r) std::memcpy(to.view().at(r, 0), from.view().at(r, half * h), bytes);
    };
    cut(p.a, part.a);
    cut(p.b, part.b);
    Matrix out = run(part);
    if (!sum)
      sum = std::move(out);
    else
      for (int64_t i = 0; i < p.a.rows * p.b.rows; ++i) sum->as<float>()[i] += out.as<float>()[i];
  }
  return *std::move(sum);
}

/// Device copies of a HostProblem, for tests that launch more than once.
class OnDevice {
 public:
  OnDevice(const DeviceInfo& device, const HostProblem& p)
      : device_(&device), host_(&p), result_(p.out, p.a.rows, p.b.rows, p.out_stride) {
    if (device.is_cpu()) return;
    cuda::set_device(device.ordinal);
    a_ = upload(p.a.bytes.data(), p.a.bytes.size());
    b_ = upload(p.b.bytes.data(), p.b.bytes.size());
    scale_a_ = upload(p.scale_a.data(), p.scale_a.size() * sizeof(float));
    scale_b_ = upload(p.scale_b.data(), p.scale_b.size() * sizeof(float));
    if (p.bias) bias_ = upload(p.bias->bytes.data(), p.bias->bytes.size());
    out_ = upload(result_.bytes.data(), result_.bytes.size());
  }

  GemmProblem problem() {
    GemmProblem p = host_->on_host(result_);
    if (device_->is_cpu()) return p;
    p.a.data = a_.data();
    p.b.data = b_.data();
    p.scale_a.data = static_cast<const float*>(scale_a_.data());
    p.scale_b.data = static_cast<const float*>(scale_b_.data());
    if (p.bias) p.bias.data = bias_.data();
    p.out.data = out_.data();
    return p;
  }

  /// Other activations of the same shape, and an output that no kernel has written.
  void renew(const Matrix& a) {
    if (device_->is_cpu()) return;
    a_.upload(a.bytes.data(), a.bytes.size());
    out_.fill(0x5a);
  }

  /// The output as it is now; the caller has waited for the stream.
  Matrix result() {
    if (!device_->is_cpu() && out_.size()) out_.download(result_.bytes.data(), result_.bytes.size());
    return result_;
  }

 private:
  static cuda::Buffer upload(const void* data, size_t bytes) {
    cuda::Buffer buffer(bytes);
    if (bytes) buffer.upload(data, bytes);
    return buffer;
  }
  const DeviceInfo* device_;
  const HostProblem* host_;
  Matrix result_;
  cuda::Buffer a_, b_, scale_a_, scale_b_, bias_, out_;
};

/// What gemm() on the device says to the problem after `change`, or "accepted".
template <class Change>
std::string refusal(const DeviceInfo& device, const HostProblem& good, Change&& change) {
  OnDevice on_device(device, good);
  GemmProblem p = on_device.problem();
  change(p);
  try {
    gemm(p, {.device = &device});
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

/// Runs `p` on `device`, with the row called `kernel` or the one that choose() picks.
inline Matrix run(const DeviceInfo& device, const HostProblem& p, std::string_view kernel = {}) {
  OnDevice on_device(device, p);
  const Launch launch{.device = &device};
  const GemmProblem problem = on_device.problem();
  if (kernel.empty())
    gemm(problem, launch);
  else
    gemm(problem, choose_named(device, kernel, problem.m(), problem.n(), problem.k(), p.out), launch);
  return on_device.result();  // downloads on the default stream, behind the kernel
}

/// The same problem with rows of a, b and out of these strides, in elements.
inline HostProblem with_row_strides(const HostProblem& p, int64_t a_stride, int64_t b_stride, int64_t out_stride) {
  HostProblem padded = p;
  const auto spread = [](const Matrix& from, int64_t stride) {
    Matrix to(from.dtype, from.rows, from.cols, stride);
    for (int64_t r = 0; r < from.rows; ++r)
      std::memcpy(to.view().at(r, 0), from.view().at(r, 0), static_cast<size_t>(from.cols) * size_of(from.dtype));
    return to;
  };
  padded.a = spread(p.a, a_stride);
  padded.b = spread(p.b, b_stride);
  padded.out_stride = out_stride;
  return padded;
}

/// The rows [first, first + count) of a problem as one of their own.
inline HostProblem take_rows(const HostProblem& p, int64_t first, int64_t count) {
  HostProblem rows = p;
  rows.a = Matrix(p.a.dtype, count, p.a.cols, p.a.row_stride);
  std::memcpy(rows.a.bytes.data(), p.a.view().at(first, 0), rows.a.bytes.size());
  const int64_t cols = scale_blocks(p.order, p.a.cols, 1);
  if (p.scale_a.size() > 1 || spec(p.order).scale_block)
    rows.scale_a.assign(p.scale_a.begin() + first * cols, p.scale_a.begin() + (first + count) * cols);
  return rows;
}

}  // namespace samebits::testing
