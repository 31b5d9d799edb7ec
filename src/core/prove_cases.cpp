// The data of a proof: kinds that stress different parts of a matrix unit, shapes at the edges of every tile, scales
// and biases at the edges of FP32. All of it from splitmix64, so that two machines can compare digests.
#include <bit>
#include <cmath>
#include <iterator>

#include "core/generator.h"
#include "core/prove.h"
#include "numerics/formats.h"

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

enum class Kind { kAllPatterns, kNormal, kSubnormal, kCancelling, kWide, kNeedles, kEdges };
constexpr Kind kKinds[] = {Kind::kAllPatterns, Kind::kNormal,  Kind::kSubnormal, Kind::kCancelling,
                           Kind::kWide,        Kind::kNeedles, Kind::kEdges};
constexpr std::string_view name_of(Kind kind) {
  constexpr std::string_view kNames[] = {"all bit patterns", "normal numbers", "subnormals",   "cancelling sums",
                                         "wide exponents",   "needles",        "edges of FP32"};
  return kNames[static_cast<size_t>(kind)];
}

/// A finite e4m3 code of the kind.
uint8_t code_of(Random& random, Kind kind, int64_t col) {
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
  }
  return static_cast<uint8_t>((code & 0x7f) == 0x7f ? code ^ 1 : code);
}

constexpr uint32_t kEdgeBits[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00001, 0x7149f2ca,
                                  0xfe967699, 0x00000001, 0x800fffff, 0x0da24260, 0x477fe000, 0x477ff000,
                                  0xffffffff, 0x00800000, 0x35800000, 0xc0400000};

struct Shape {
  int64_t m, n, k;
};

ProofCase make_case(Random& random, Kind kind, const Shape& s, bool with_bias, bool padded) {
  ProofCase c;
  c.what = std::string(name_of(kind)) + ", m=" + std::to_string(s.m) + " n=" + std::to_string(s.n) +
           " k=" + std::to_string(s.k) + (with_bias ? ", bias" : "") + (padded ? ", padded rows" : "");
  c.m = s.m, c.n = s.n, c.k = s.k;
  c.a_stride = s.k + (padded ? 48 : 0), c.b_stride = s.k + (padded ? 16 : 0), c.out_stride = s.n + (padded ? 24 : 0);
  const auto fill = [&](std::vector<uint8_t>& codes, int64_t rows, int64_t stride, bool cancels) {
    codes.assign(static_cast<size_t>(rows * stride), 0x7f);  // NaN between the rows
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t col = 0; col < s.k; ++col) {
        uint8_t code = code_of(random, kind, col);
        // The operand that does not alternate repeats itself instead.
        if (kind == Kind::kCancelling && col % 2) code = codes[static_cast<size_t>(row * stride + col - 1)];
        if (kind == Kind::kCancelling && col % 2 && cancels && random.below(8)) code ^= 0x80;
        codes[static_cast<size_t>(row * stride + col)] = code;
      }
  };
  fill(c.a, s.m, c.a_stride, true);
  fill(c.b, s.n, c.b_stride, false);
  const bool per_token = random.below(4) != 0, per_channel = random.below(4) != 0;
  for (int64_t i = 0; i < (per_token ? s.m : 1); ++i) c.scale_a.push_back(random.scale());
  for (int64_t i = 0; i < (per_channel ? s.n : 1); ++i) c.scale_b.push_back(random.scale());
  for (int64_t i = 0; with_bias && i < s.n; ++i) c.bias.push_back(random.scale() * 100);
  if (kind == Kind::kEdges) {
    const auto edge = [](size_t i) { return std::bit_cast<float>(kEdgeBits[i % std::size(kEdgeBits)]); };
    for (size_t i = 0; i < c.scale_a.size(); i += 2) c.scale_a[i] = edge(i / 2);
    for (size_t i = 0; i < c.scale_b.size(); i += 3) c.scale_b[i] = edge(i / 3);
    for (size_t i = 0; i < c.bias.size(); i += 5) c.bias[i] = edge(i / 5);
    std::fill_n(c.a.begin(), s.k, uint8_t{0});
    c.a[static_cast<size_t>((s.m - 1) * c.a_stride + s.k / 2)] = 0x7f;
    c.b[static_cast<size_t>(s.n / 2 * c.b_stride + s.k - 1)] = 0xff;
  }
  c.half = random.below(2) ? Dtype::kBf16 : Dtype::kF16;
  return c;
}

uint64_t seed_of(int round, Order order, uint64_t part) {
  return mix(0x70726f7665ull + static_cast<uint64_t>(round)) ^ mix(static_cast<uint64_t>(order) + 1) ^ mix(part + 100);
}

}  // namespace

std::vector<ProofCase> proof_cases(int round, Order order) {
  Random random(seed_of(round, order, 0));
  std::vector<ProofCase> cases;
  constexpr Shape kSmall[] = {{1, 16, 16},    {3, 48, 144},    {17, 272, 528},  {65, 1296, 256},
                              {130, 144, 96}, {64, 512, 2048}, {300, 528, 1040}};
  size_t shape = static_cast<size_t>(round);
  for (Kind kind : kKinds)
    for (int i = 0; i < 3; ++i, ++shape) {
      const Shape& s = kSmall[shape % std::size(kSmall)];
      cases.push_back(make_case(random, kind, s, random.below(2), random.below(2)));
    }
  // Shapes of real layers, and more output tiles than a GPU has SMs.
  for (const Shape& s : {Shape{1, 4096, 2048}, {16, 2048, 6144}, {33, 4096, 4096}, {200, 1024, 2048}, {5200, 1296, 80}})
    cases.push_back(make_case(random, Kind::kNormal, s, random.below(2), false));
  // Random extents, so that rounds differ in more than their data.
  for (int i = 0; i < 6; ++i) {
    const Shape s{1 + random.below(400), 16 * (1 + random.below(64)), 16 * (1 + random.below(96))};
    cases.push_back(make_case(random, kKinds[random.below(5)], s, random.below(2), random.below(2)));
  }
  return cases;
}

ProofCase sweep_case(int round, Order order) {
  Random random(seed_of(round, order, 1));
  ProofCase c = make_case(random, Kind::kCancelling, {257, 272, 528}, round % 2, false);
  c.what = "M sweep";
  c.scale_a.resize(257, 0.03125f);  // one for each row, or a row alone would have another scale than in its batch
  return c;
}

std::vector<std::pair<int64_t, int64_t>> sweep_batches(int round) {
  Random random(seed_of(round, Order::kHopperFast, 2));
  std::vector<std::pair<int64_t, int64_t>> batches;
  for (int64_t m :
       {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 96, 100, 127, 128, 129, 192, 255, 256, 257})
    batches.emplace_back(random.below(static_cast<uint32_t>(258 - m)), m);
  return batches;
}

OnPlace::OnPlace(const Place& place, const ProofCase& c, Dtype out) : case_(c), place_(place), out_(out) {
  const auto put = [&](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    Memory memory(place, values.size() * sizeof(T));
    memory.upload(values.data(), values.size() * sizeof(T));
    return memory;
  };
  a_ = put(c.a), b_ = put(c.b), scale_a_ = put(c.scale_a), scale_b_ = put(c.scale_b);
  std::vector<std::byte> bias(c.bias.size() * size_of(out));
  for (size_t i = 0; i < c.bias.size(); ++i) store(out, bias.data() + i * size_of(out), c.bias[i]);
  bias_ = put(bias);
}

GemmProblem OnPlace::problem(Order order, Memory& out, int64_t first, int64_t count) const {
  const ProofCase& c = case_;
  if (count < 0) count = c.m;
  const auto scales = [](const Memory& memory, size_t values, int64_t from, int64_t rows) {
    const auto* data = static_cast<const float*>(memory.data());
    return values == 1 ? Scales::per_tensor(data) : Scales::per_row(data + from, rows);
  };
  GemmProblem p;
  p.order = order;
  p.a = ConstView(a_.data(), Dtype::kE4m3, c.m, c.k, c.a_stride).slice_rows(first, count);
  p.b = ConstView(b_.data(), Dtype::kE4m3, c.n, c.k, c.b_stride);
  p.scale_a = scales(scale_a_, c.scale_a.size(), first, count);
  p.scale_b = scales(scale_b_, c.scale_b.size(), 0, c.n);
  if (!c.bias.empty()) p.bias = ConstView(bias_.data(), out_, 1, c.n);
  p.out = View(out.data(), out_, count, c.n, c.out_stride);
  return p;
}

Memory OnPlace::output() const {
  Memory memory(place_, static_cast<size_t>(case_.m * case_.out_stride) * size_of(out_));
  memory.fill(0xa5);
  return memory;
}

}  // namespace samebits
