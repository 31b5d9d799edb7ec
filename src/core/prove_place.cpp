// A case of a proof on the device under proof: its operands in memory, as each row takes them.
#include "core/prove.h"

#include <cstring>

#include "numerics/formats.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

/// The codes as elements of the dtype.
std::vector<std::byte> elements(Dtype dtype, const std::vector<uint16_t>& codes) {
  std::vector<std::byte> bytes(codes.size() * size_of(dtype));
  for (size_t i = 0; i < codes.size(); ++i)
    for (size_t byte = 0; byte < size_of(dtype); ++byte)  // little-endian
      bytes[i * size_of(dtype) + byte] = static_cast<std::byte>(codes[i] >> (8 * byte));
  return bytes;
}

std::vector<uint16_t> widened(Dtype to, const std::vector<uint16_t>& e4m3) {
  std::vector<uint16_t> codes;
  for (uint16_t code : e4m3) codes.push_back(static_cast<uint16_t>(encode(format_of(to), decode(kFormatE4m3, code))));
  return codes;
}

}  // namespace

OnPlace::OnPlace(const Place& place, const ProofCase& c, Dtype out) : case_(c), place_(place), out_(out) {
  const auto put = [&](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    Memory memory(place, values.size() * sizeof(T));
    memory.upload(values.data(), values.size() * sizeof(T));
    return memory;
  };
  a_ = put(elements(c.a_dtype, c.a)), b_ = put(elements(c.b_dtype, c.b));
  if (c.weight_only()) widened_ = put(elements(c.a_dtype, widened(c.a_dtype, c.b)));
  scale_a_ = put(c.scale_a), scale_b_ = put(c.scale_b);
  std::vector<std::byte> bias(c.bias.size() * size_of(out));
  for (size_t i = 0; i < c.bias.size(); ++i) store(out, bias.data() + i * size_of(out), c.bias[i]);
  bias_ = put(bias);
}

GemmProblem OnPlace::problem(const ProofRow& row, Memory& out, int64_t first, int64_t count) const {
  const ProofCase& c = case_;
  if (count < 0) count = c.m;
  const auto scales = [](const Memory& memory, size_t values, int64_t from, int64_t rows) {
    const auto* data = static_cast<const float*>(memory.data());
    if (values == 0) return Scales();
    return values == 1 ? Scales::per_tensor(data) : Scales::per_row(data + from, rows);
  };
  GemmProblem p;
  p.order = row.order;
  p.a = ConstView(a_.data(), c.a_dtype, c.m, c.k, c.a_stride).slice_rows(first, count);
  p.b = ConstView(b_.data(), c.b_dtype, c.n, c.k, c.b_stride);
  if (c.weight_only() && !row.weight_only) p.b.data = widened_.data(), p.b.dtype = c.a_dtype;
  if (spec(row.order).scale_block) {
    p.scale_a = Scales::blocks(static_cast<const float*>(scale_a_.data()), c.m, groups_along(c.k));
    if (c.tokens_adjacent) p.scale_a.row_stride = 1, p.scale_a.col_stride = c.m;
    p.scale_a = p.scale_a.slice_rows(first, count);
    p.scale_b = Scales::blocks(static_cast<const float*>(scale_b_.data()), groups_along(c.n), groups_along(c.k));
  } else {
    p.scale_a = scales(scale_a_, c.scale_a.size(), first, count);
    p.scale_b = scales(scale_b_, c.scale_b.size(), 0, c.n);
  }
  if (!c.bias.empty()) p.bias = ConstView(bias_.data(), out_, 1, c.n);
  p.out = View(out.data(), out_, count, c.n, c.out_stride);
  return p;
}

Memory OnPlace::output() const {
  Memory memory(place_, static_cast<size_t>((case_.m + kGuardRows) * case_.out_stride) * size_of(out_));
  memory.fill(kUntouched);
  return memory;
}

Memory OnPlace::output(const ConstView& rows) const {
  Memory memory = output();
  std::vector<std::byte> bytes(memory.size(), std::byte{kUntouched});
  const View outputs(bytes.data(), out_, rows.rows, case_.n, case_.out_stride);
  for (int64_t row = 0; row < rows.rows; ++row)
    std::memcpy(outputs.at(row, 0), rows.at(row, 0), static_cast<size_t>(case_.n) * size_of(out_));
  memory.upload(bytes.data(), bytes.size());
  return memory;
}

std::vector<std::byte> bytes_of(const Memory& memory) {
  std::vector<std::byte> bytes(memory.size());
  memory.download(bytes.data(), bytes.size());
  return bytes;
}

}  // namespace samebits
