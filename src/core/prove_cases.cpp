// The data of a proof: kinds that stress different parts of a matrix unit, shapes at the edges of every tile, scales
// and biases at the edges of FP32. All of it from splitmix64, so that two machines can compare digests.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <tuple>

#include "core/choose.h"
#include "core/generator.h"
#include "core/prove.h"
#include "numerics/formats.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

/// splitmix64 as a stream.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(mix(seed)) {}
  uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ull); }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
  /// Between 2^-12 and 2^-4 with a full significand, now and then negative.
  float scale() {
    const uint32_t bits = (115 + below(8)) << 23 | static_cast<uint32_t>(next() & 0x7fffff);
    return std::bit_cast<float>(below(16) ? bits : bits | 0x80000000u);
  }

 private:
  uint64_t state_;
};

enum class Kind {
  kAllPatterns,
  kNormal,
  kSubnormal,
  kCancelling,
  kWide,
  kNeedles,
  kEdges,
  kSingleBits,
  kSmallest,
  kLargest
};
constexpr Kind kKinds[] = {Kind::kAllPatterns, Kind::kNormal,  Kind::kSubnormal, Kind::kCancelling,
                           Kind::kWide,        Kind::kNeedles, Kind::kEdges};
/// Of 16-bit operands alone: significands that show every bit cut or carried, and sums at both ends of FP32.
constexpr Kind kHalfKinds[] = {Kind::kSingleBits, Kind::kSmallest, Kind::kLargest};
constexpr std::string_view name_of(Kind kind) {
  constexpr std::string_view kNames[] = {"all bit patterns", "normal numbers", "subnormals",    "cancelling sums",
                                         "wide exponents",   "needles",        "edges of FP32", "single bits",
                                         "smallest sums",    "largest sums"};
  return kNames[static_cast<size_t>(kind)];
}

/// A finite e4m3 code of the kind.
uint16_t fp8_code(Random& random, Kind kind, int64_t col) {
  const uint32_t bits = static_cast<uint32_t>(random.next() >> 40);
  const uint32_t sign = bits & 0x80, fraction = bits & 7;
  uint32_t code = bits & 0xff;
  switch (kind) {
    case Kind::kAllPatterns:
    case Kind::kEdges: break;
    case Kind::kNormal: code = sign | (4 + (bits >> 8) % 6) << 3 | fraction; break;  // six exponents in the middle
    case Kind::kSubnormal: code = sign | (bits >> 8) % 3 << 3 | fraction; break;
    case Kind::kCancelling:  // pairs of one magnitude and opposite signs, if the other operand agrees
      code = (col & 1 ? 0x80 : 0) | (bits >> 8) % 16 << 3 | (fraction & 4);
      break;
    case Kind::kWide: code = sign | ((bits >> 8) % 2 ? 15u << 3 | fraction % 7 : fraction); break;  // top or subnormal
    case Kind::kNeedles: code = (bits >> 8) % 64 ? 0 : code; break;
    case Kind::kSingleBits: code = sign | (bits >> 8) % 16 << 3 | (fraction & (~fraction + 1)); break;
    case Kind::kSmallest: code = sign | (bits >> 8) % 8 << 3 | fraction; break;
    case Kind::kLargest: code = sign | (7 + (bits >> 8) % 9) << 3 | fraction; break;
  }
  return static_cast<uint16_t>((code & 0x7f) == 0x7f ? code ^ 1 : code);
}

/// A finite bf16 or fp16 code of the kind. What is at an end of the range is so in `a` alone: `b` may be e4m3.
uint16_t half_code(Random& random, Kind kind, Dtype dtype, bool is_a, int64_t row, int64_t col) {
  const Format& f = format_of(dtype);
  const auto bits = static_cast<uint32_t>(random.next() >> 32), more = bits >> 16;
  const uint32_t one = 1u << f.fraction_bits, top = (1u << f.exponent_bits) - 1;
  uint32_t sign = bits & 0x8000, fraction = bits & (one - 1);
  const auto code = [&](int low, int high) {  // an exponent from low to high, of 1.0: 0
    const int exponent = low + static_cast<int>(more % static_cast<uint32_t>(high - low + 1)) + f.bias;
    return static_cast<uint16_t>(
        sign | std::min(static_cast<uint32_t>(std::max(exponent, 0)), top - 1) << f.fraction_bits | fraction);
  };
  const bool bf16 = dtype == Dtype::kBf16;
  const int far = bf16 ? 20 : 15;
  switch (kind) {
    case Kind::kAllPatterns:
    case Kind::kEdges: {
      if (!bf16) return static_cast<uint16_t>((bits >> f.fraction_bits & top) == top ? bits ^ one : bits);
      // Forty exponents a row, others in the next one: of all 255 in each row every sum would be infinite.
      const auto low = static_cast<int>((row * 61 + 100) % 216) - f.bias;
      return code(low, low + 39);
    }
    case Kind::kNormal: return code(-3, 2);
    case Kind::kSubnormal: return is_a ? code(-f.bias, 3 - f.bias) : code(f.bias - 6, f.bias);
    case Kind::kCancelling: sign = col & 1 ? 0x8000 : 0, fraction &= one >> 1; return code(-8, 7);
    case Kind::kWide: return code(-far, far);
    case Kind::kNeedles: return more % 64 ? 0 : half_code(random, Kind::kWide, dtype, is_a, row, col);
    case Kind::kSingleBits: fraction &= ~fraction + 1; return code(-8, 8);
    case Kind::kSmallest:
      if (row % 2 == 0) return is_a ? code(-f.bias, 16 - f.bias) : code(-12, 2);
      // All products below the least exponent that counts in a step, of one sign, so that what is cut adds up.
      sign = 0;
      return is_a ? code(-f.bias, 1 - f.bias) : code(-30, -13);
    case Kind::kLargest: return is_a ? (bf16 ? code(108, 116) : code(11, 15)) : code(0, 8);
  }
  return 0;
}

/// The code of NaN, all ones; of infinity, where there is one.
constexpr uint16_t nan_code(Dtype dtype) { return size_of(dtype) == 1 ? 0x7f : 0x7fff; }
constexpr uint16_t infinity_code(Dtype dtype) { return dtype == Dtype::kBf16 ? 0x7f80 : 0x7c00; }

constexpr uint32_t kEdgeBits[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00001, 0x7149f2ca,
                                  0xfe967699, 0x00000001, 0x800fffff, 0x0da24260, 0x477fe000, 0x477ff000,
                                  0xffffffff, 0x00800000, 0x35800000, 0xc0400000};

struct Shape {
  int64_t m, n, k;
};

/// The operands' dtypes in a case: of a 16-bit Order both types in turn, each with a weight of its own and an e4m3 one.
std::pair<Dtype, Dtype> dtypes_of(Order order, size_t number) {
  if (spec(order).operands == Operands::kFp8) return {Dtype::kE4m3, Dtype::kE4m3};
  const Dtype a = number / 2 % 2 ? Dtype::kF16 : Dtype::kBf16;
  return {a, number % 2 ? Dtype::kE4m3 : a};
}

void fill(Random& random, Kind kind, const ProofCase& c, bool is_a, std::vector<uint16_t>& codes) {
  const Dtype dtype = is_a ? c.a_dtype : c.b_dtype;
  const int64_t rows = is_a ? c.m : c.n, stride = is_a ? c.a_stride : c.b_stride;
  codes.assign(static_cast<size_t>(rows * stride), nan_code(dtype));  // NaN between the rows
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t col = 0; col < c.k; ++col) {
      uint16_t code =
          size_of(dtype) == 1 ? fp8_code(random, kind, col) : half_code(random, kind, dtype, is_a, row, col);
      // The operand that does not alternate repeats itself instead.
      if (kind == Kind::kCancelling && col % 2) code = codes[static_cast<size_t>(row * stride + col - 1)];
      if (kind == Kind::kCancelling && col % 2 && is_a && random.below(8)) code ^= sign_bit(dtype);
      codes[static_cast<size_t>(row * stride + col)] = code;
    }
}

/// Scales in blocks of 128 of one of three sorts: full significands, powers of two, exponents over 80 places.
std::vector<float> block_scales(Random& random, int64_t count) {
  const uint32_t sort = random.below(3);
  std::vector<float> scales;
  for (int64_t i = 0; i < count; ++i) {
    const float scale = random.scale();
    const uint32_t bits = std::bit_cast<uint32_t>(scale);
    scales.push_back(sort == 0   ? scale
                     : sort == 1 ? std::bit_cast<float>(bits & 0xff800000u)
                                 : std::ldexp(scale, static_cast<int>(random.below(81)) - 40));
  }
  return scales;
}

void set_scales(Random& random, Order order, Kind kind, ProofCase& c) {
  if (spec(order).scale_block) {
    c.scale_a = block_scales(random, c.m * groups_along(c.k));
    c.scale_b = block_scales(random, groups_along(c.n) * groups_along(c.k));
    c.tokens_adjacent = random.below(2);
    return;
  }
  const bool per_token = random.below(4) != 0, per_channel = random.below(4) != 0;
  for (int64_t i = 0; i < (per_token ? c.m : 1); ++i) c.scale_a.push_back(random.scale());
  for (int64_t i = 0; i < (per_channel ? c.n : 1); ++i) c.scale_b.push_back(random.scale());
  if (spec(order).operands == Operands::kFp8) return;
  // A weight-only call has no scale of its activations. The ends of FP32 are brought back to what the output can show.
  const bool ends = kind == Kind::kSmallest || kind == Kind::kLargest;
  if (c.weight_only() || ends || !random.below(4)) c.scale_a.clear();
  if (!c.weight_only() && !ends && !random.below(4)) c.scale_b.clear();
  if (ends && c.a_dtype == Dtype::kBf16)
    for (float& scale : c.scale_b) scale = std::ldexp(scale, kind == Kind::kSmallest ? 120 : -105);
}

/// Scales and biases at the edges of FP32, a token of zeros, NaN and, where there is one, infinity in either operand.
void set_edges(Order order, ProofCase& c) {
  const auto edge = [](size_t i) { return std::bit_cast<float>(kEdgeBits[i % std::size(kEdgeBits)]); };
  // An output has many scales in blocks: few edges, or all of them would be NaN.
  const size_t step_a = spec(order).scale_block ? 13 : 2, step_b = spec(order).scale_block ? 7 : 3;
  for (size_t i = 0; i < c.scale_a.size(); i += step_a) c.scale_a[i] = edge(i / step_a);
  for (size_t i = 0; i < c.scale_b.size(); i += step_b) c.scale_b[i] = edge(i / step_b);
  for (size_t i = 0; i < c.bias.size(); i += 5) c.bias[i] = edge(i / 5);
  std::fill_n(c.a.begin(), c.k, uint16_t{0});
  const auto a = [&](int64_t row, int64_t col) -> uint16_t& {
    return c.a[static_cast<size_t>(row * c.a_stride + col)];
  };
  const auto b = [&](int64_t row, int64_t col) -> uint16_t& {
    return c.b[static_cast<size_t>(row * c.b_stride + col)];
  };
  for (int64_t row = 1; row < c.m && size_of(c.a_dtype) == 2; row += 8)
    a(row, row * 5 % c.k) = static_cast<uint16_t>(infinity_code(c.a_dtype) | (row / 8 % 2 ? 0x8000 : 0));
  for (int64_t row = 2; row < c.n && size_of(c.b_dtype) == 2; row += 8)
    b(row, row * 3 % c.k) = static_cast<uint16_t>(infinity_code(c.b_dtype) | (row / 8 % 2 ? 0x8000 : 0));
  a(c.m - 1, c.k / 2) = nan_code(c.a_dtype);
  b(c.n / 2, c.k - 1) = static_cast<uint16_t>(nan_code(c.b_dtype) | sign_bit(c.b_dtype));
}

/// Case number `number` of an Order: the number decides the operands' dtypes.
ProofCase make_case(Random& random, Order order, size_t number, Kind kind, const Shape& s, bool with_bias,
                    bool padded) {
  ProofCase c;
  std::tie(c.a_dtype, c.b_dtype) = dtypes_of(order, number);
  c.what = std::string(name_of(kind)) + ", m=" + std::to_string(s.m) + " n=" + std::to_string(s.n) +
           " k=" + std::to_string(s.k) + (with_bias ? ", bias" : "") + (padded ? ", padded rows" : "");
  if (size_of(c.a_dtype) == 2) c.what += fmt::format(", {}{}", name(c.a_dtype), c.weight_only() ? " beside e4m3" : "");
  c.m = s.m, c.n = s.n, c.k = s.k;
  const int64_t whole = (s.k + 15) / 16 * 16;  // a row of e4m3 starts at a multiple of 16 bytes
  c.a_stride = s.k + (padded ? 48 : 0), c.b_stride = whole + (padded ? 16 : 0), c.out_stride = s.n + (padded ? 24 : 0);
  fill(random, kind, c, true, c.a);
  fill(random, kind, c, false, c.b);
  set_scales(random, order, kind, c);
  for (int64_t i = 0; with_bias && i < s.n; ++i) c.bias.push_back(random.scale() * 100);
  if (kind == Kind::kEdges) set_edges(order, c);
  c.half = random.below(2) ? Dtype::kBf16 : Dtype::kF16;
  // Sums of bf16 operands are mostly beyond fp16, which would hide them.
  if (c.a_dtype == Dtype::kBf16 && random.below(2)) c.half = Dtype::kBf16;
  return c;
}

uint64_t seed_of(int round, Order order, uint64_t part) {
  return mix(0x70726f7665ull + static_cast<uint64_t>(round)) ^ mix(static_cast<uint64_t>(order) + 1) ^ mix(part + 100);
}

}  // namespace

std::vector<ProofCase> proof_cases(int round, Order order) {
  const bool half = spec(order).operands == Operands::kHalf;
  Random random(seed_of(round, order, 0));
  std::vector<ProofCase> cases;
  constexpr Shape kSmall[] = {{1, 16, 16},    {3, 48, 144},    {17, 272, 528},  {65, 1296, 256},
                              {130, 144, 96}, {64, 512, 2048}, {300, 528, 1040}};
  constexpr Shape kSmallHalf[] = {{1, 8, 8},      {3, 40, 136},    {17, 264, 520},  {65, 1288, 248},
                                  {130, 136, 88}, {64, 512, 2048}, {300, 520, 1032}};
  // Named: GCC 12 with -fsanitize=bounds takes element 0 of a conditional array, whatever the subscript.
  const Shape* const small = half ? kSmallHalf : kSmall;
  std::vector<Kind> kinds(std::begin(kKinds), std::end(kKinds));
  if (half) kinds.insert(kinds.end(), std::begin(kHalfKinds), std::end(kHalfKinds));
  size_t number = static_cast<size_t>(round);
  const auto add = [&](Kind kind, const Shape& s, bool bias, bool padded) {
    cases.push_back(make_case(random, order, number++, kind, s, bias, padded));
  };
  // What is drawn is drawn in this order: arguments would be in the compiler's.
  for (Kind kind : kinds)
    for (int i = 0; i < 3; ++i) {
      const bool padded = random.below(2), bias = random.below(2) && kind != Kind::kSmallest;  // it would hide them
      add(kind, small[number % std::size(kSmall)], bias, padded);
    }
  // Shapes of real layers, and more output tiles than a GPU has SMs.
  for (const Shape& s : {Shape{1, 4096, 2048}, {16, 2048, 6144}, {33, 4096, 4096}, {200, 1024, 2048}, {5200, 1296, 80}})
    add(Kind::kNormal, s, random.below(2), false);
  // Random extents, so that rounds differ in more than their data.
  const int64_t step = alignment(order);
  for (int i = 0; i < 6; ++i) {
    const Shape s{1 + random.below(400), step * (1 + random.below(1024 / step)),
                  step * (1 + random.below(1536 / step))};
    const bool padded = random.below(2), bias = random.below(2);
    add(kKinds[random.below(5)], s, bias, padded);
  }
  return cases;
}

std::vector<const ProofCase*> largest_cases(const std::vector<ProofCase>& cases, bool weight_only, size_t count) {
  std::vector<const ProofCase*> found;
  for (const ProofCase& c : cases) {
    const auto same_shape = [&](const ProofCase* o) { return std::tie(o->m, o->n, o->k) == std::tie(c.m, c.n, c.k); };
    if (c.weight_only() == weight_only && std::none_of(found.begin(), found.end(), same_shape)) found.push_back(&c);
  }
  const auto work = [](const ProofCase* c) { return c->m * c->n * c->k; };
  std::stable_sort(found.begin(), found.end(), [&](const auto* x, const auto* y) { return work(x) > work(y); });
  found.resize(std::min(found.size(), count));
  return found;
}

ProofCase sweep_case(int round, Order order, bool weight_only) {
  const bool half = spec(order).operands == Operands::kHalf;
  return sweep_case(round, order, weight_only, 257, half ? 264 : 272, half ? 520 : 528);
}

ProofCase sweep_case(int round, Order order, bool weight_only, int64_t m, int64_t n, int64_t k) {
  Random random(seed_of(round, order, weight_only ? 3 : 1));
  const size_t number = 2 * static_cast<size_t>(round) + (weight_only ? 1 : 0);
  ProofCase c = make_case(random, order, number, Kind::kCancelling, {m, n, k}, round % 2, false);
  c.what = fmt::format("M sweep, n={} k={}{}", n, k, weight_only ? ", e4m3 weight" : "");
  // One for each row, or a row alone would have another scale than in its batch.
  if (c.scale_a.size() == 1) c.scale_a.resize(static_cast<size_t>(m), 0.03125f);
  return c;
}

std::vector<std::pair<int64_t, int64_t>> sweep_batches(int round, std::span<const int64_t> sizes, int64_t pool) {
  Random random(seed_of(round, Order::kHopperFast, 2));
  std::vector<std::pair<int64_t, int64_t>> batches;
  for (int64_t m : sizes)
    if (m <= pool) batches.emplace_back(random.below(static_cast<uint32_t>(pool + 1 - m)), m);
  return batches;
}

ProofCase control_case(Order order, bool weight_only) {
  ProofCase c = sweep_case(0, order, weight_only);
  Random random(seed_of(0, order, 4));
  for (size_t i = 0; i < c.a.size(); ++i)  // many exponents: with fewer, sums are exact in 25 bits
    c.a[i] = size_of(c.a_dtype) == 2 ? half_code(random, Kind::kWide, c.a_dtype, true, 0, 0)
                                     : static_cast<uint16_t>(mix(i) % 0x7f | (mix(i) >> 32 & 0x80));
  c.bias.clear();
  return c;
}

}  // namespace samebits
