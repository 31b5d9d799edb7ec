// See bench_operands.h.
#include "cli/bench_operands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "core/generator.h"
#include "numerics/formats.h"
#include "samebits/quantize.h"

namespace samebits::cli {
namespace {

constexpr int64_t kRotateBytes = 200 << 20;  // four times the 50 MB of L2 that an H100 and an H200 have
// Primes, so that a matrix cut from the repeated pool has no equal rows.
constexpr size_t kPoolBytes = 4194301, kPoolHalves = 2097143;
constexpr float kStandardDeviation = 37837;  // of generated_integer
// Of outputs [M,N]: the one written, the Order's with either scales, and cuBLASLt's own with three ways of calling it.
constexpr int kGpuOutputs = 6, kCpuOutputs = 2;

// FP8 codes as quantization leaves them: about normal, standard deviation 60. Zeros or constants would draw less power
// and flatter the clocks.
std::vector<uint8_t> make_pool(uint64_t key) {
  std::vector<uint8_t> normal(1 << 16);
  for (size_t i = 0; i < normal.size(); ++i) {
    const float z = static_cast<float>(generated_integer(key, 0, static_cast<int64_t>(i), 0)) / kStandardDeviation;
    normal[i] = static_cast<uint8_t>(encode(kFormatE4m3, 60.0f * z));
  }
  std::vector<uint8_t> codes(kPoolBytes);
  for (size_t i = 0; i < codes.size(); i += 4) {
    const uint64_t r = mix(key + 0x9e3779b97f4a7c15ull * i);
    for (size_t j = 0; j < std::min<size_t>(4, codes.size() - i); ++j) codes[i + j] = normal[(r >> (16 * j)) & 0xffff];
  }
  return codes;
}

const std::vector<uint8_t>& pool(CodeStream stream) {
  static const std::vector<uint8_t> kTokens = make_pool(1), kWeights = make_pool(2);
  return stream == CodeStream::kTokens ? kTokens : kWeights;
}

// `bytes` of the pool's, `copies` times over.
Memory filled(const Place& place, const void* pool, size_t pool_bytes, size_t bytes, int copies) {
  Memory memory(place, bytes * static_cast<size_t>(copies));
  for (size_t copy = 0; copy < memory.size(); copy += bytes)
    for (size_t i = 0; i < bytes; i += pool_bytes) memory.upload(pool, std::min(pool_bytes, bytes - i), copy + i);
  return memory;
}

// Random elements, about normal, `copies` times over.
Memory random(const Place& place, Dtype dtype, CodeStream stream, int64_t count, int copies) {
  if (dtype == Dtype::kE4m3) return random_codes(place, stream, static_cast<size_t>(count), copies);
  return random_bf16(place, static_cast<size_t>(count), stream == CodeStream::kTokens ? 1 : 2, copies);
}

}  // namespace

int copies_past_l2(const DeviceInfo& device, int64_t weight_bytes) {
  return device.is_cpu() ? 1 : static_cast<int>(std::clamp<int64_t>(kRotateBytes / weight_bytes + 1, 2, 64));
}

Memory random_codes(const Place& place, CodeStream stream, size_t bytes, int copies) {
  const std::vector<uint8_t>& codes = pool(stream);
  return filled(place, codes.data(), codes.size(), bytes, copies);
}

Memory random_bf16(const Place& place, size_t count, uint64_t key, int copies) {
  std::vector<uint16_t> values(std::min(count, kPoolHalves));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<uint16_t>(encode(
        kFormatBf16, static_cast<float>(generated_integer(key, 0, static_cast<int64_t>(i), 0)) / kStandardDeviation));
  return filled(place, values.data(), values.size() * 2, count * 2, copies);
}

Memory random_scales(const Place& place, int64_t count, uint64_t key) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (size_t i = 0; i < scales.size(); ++i)
    scales[i] = 0.001f + static_cast<float>(mix(key + i) >> 40) * (0.01f / (1 << 24));
  Memory memory(place, scales.size() * sizeof(float));
  memory.upload(scales.data(), memory.size());
  return memory;
}

Mix mix_of(Order order, bool weight_only) {
  if (spec(order).operands == samebits::Operands::kFp8) return {};
  return {Dtype::kBf16, weight_only ? Dtype::kE4m3 : Dtype::kBf16};
}

Operands::Operands(const Place& place, Shape shape, int64_t max_m, Mix mix)
    : shape_(shape),
      mix_(mix),
      max_m_(max_m),
      copies_(copies_past_l2(place.device(), weight_bytes())),
      a_(random(place, mix.a, CodeStream::kTokens, max_m * shape.k, 1)),
      b_(random(place, mix.b, CodeStream::kWeights, shape.n * shape.k, copies_)),
      scale_a_(random_scales(place, max_m * groups_along(shape.k), 3)),
      scale_b_(random_scales(place, std::max(shape.n, groups_along(shape.n) * groups_along(shape.k)), 4)) {}

GemmProblem Operands::problem(Order order, int64_t m, int copy, void* out, ScaleKind scales) const {
  const auto* weight = static_cast<const std::byte*>(b_.data()) + copy * weight_bytes();
  const auto *scale_a = static_cast<const float*>(scale_a_.data()),
             *scale_b = static_cast<const float*>(scale_b_.data());
  const bool per_row = scales == ScaleKind::kPerRow;
  GemmProblem p;
  p.order = order;
  p.a = ConstView(a_.data(), mix_.a, m, shape_.k);
  p.b = ConstView(weight, mix_.b, shape_.n, shape_.k);
  p.out = View(out, Dtype::kBf16, m, shape_.n);
  if (spec(order).scale_block) {  // tokens fastest, as vLLM's and our quantizers write them
    p.scale_a = {scale_a, m, groups_along(shape_.k), 1, max_m_};
    p.scale_b = Scales::blocks(scale_b, groups_along(shape_.n), groups_along(shape_.k));
    return p;
  }
  if (mix_.a == Dtype::kE4m3) p.scale_a = per_row ? Scales::per_row(scale_a, m) : Scales::per_tensor(scale_a);
  if (mix_.b == Dtype::kE4m3) p.scale_b = per_row ? Scales::per_row(scale_b, shape_.n) : Scales::per_tensor(scale_b);
  return p;
}

Launch plain_launch(const Place& place, Memory& workspace) {
  if (!place.is_cpu()) workspace = Memory(place, kWorkspaceBytes);
  Launch launch;
  launch.device = &place.device();
  launch.stream = place.stream();
  launch.workspace = workspace.data();
  launch.workspace_bytes = static_cast<int64_t>(workspace.size());
  launch.overlap = Overlap::kNone;
  return launch;
}

void check_memory(const DeviceInfo& device, Shape shape, int64_t max_m, Mix mix) {
  // In double: the products of three numbers up to 2^31 pass 2^63.
  const double m = static_cast<double>(max_m), n = static_cast<double>(shape.n), k = static_cast<double>(shape.k);
  const int outputs = device.is_cpu() ? kCpuOutputs : kGpuOutputs;
  const int64_t a_bytes = static_cast<int64_t>(size_of(mix.a)), b_bytes = static_cast<int64_t>(size_of(mix.b));
  const double copies = copies_past_l2(device, shape.n * shape.k * b_bytes);
  const double held =
      static_cast<double>(a_bytes) * m * k + static_cast<double>(b_bytes) * copies * n * k + outputs * 2 * m * n;
  const double memory = device.is_cpu()
                            ? static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE))
                            : static_cast<double>(device.memory);
  if (held > memory)
    throw Error(ErrorCode::kBadInput, fmt::format("m={} n={} k={} takes {:.1f} GB of memory; {} has {:.1f} GB", max_m,
                                                  shape.n, shape.k, held / 1e9, describe(device), memory / 1e9));
}

}  // namespace samebits::cli
