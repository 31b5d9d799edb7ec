// The unit's behaviour through a row: problem p is row p against channel p, a handful of products each a power of two.
// What comes back is a power of two or zero, which every output type holds exactly.
#include <algorithm>
#include <bit>
#include <cmath>

#include "core/prove.h"
#include "numerics/formats.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

constexpr int64_t kK = 544;
constexpr int kTop = 16;        // the largest exponent of a product of two e4m3 powers of two: 256 * 256
constexpr int kBottom = -18;    // the smallest: 2^-9 * 2^-9
constexpr int64_t kLater = 64;  // an element of a later step than elements 0 and 1, whatever the unit

/// The code of 2^e, e in [-9, 8]: every operand type has those numbers.
uint16_t power(Dtype dtype, int e) { return static_cast<uint16_t>(encode(format_of(dtype), std::ldexp(1.0f, e))); }

struct Term {
  int64_t at;  ///< element of K
  int sign, exponent;
};

/// Runs all probes as one problem and returns their sums.
class Probes {
 public:
  int64_t add(std::vector<Term> terms) {
    probes_.push_back(std::move(terms));
    return static_cast<int64_t>(probes_.size()) - 1;
  }

  std::vector<float> run(const Place& place, const ProofRow& row) const {
    const auto count = static_cast<int64_t>(probes_.size()), n = (count + 15) / 16 * 16;
    const bool half = spec(row.order).operands == Operands::kHalf;
    ProofCase c{};
    c.m = c.n = n, c.k = c.a_stride = c.b_stride = kK, c.out_stride = n;
    c.a_dtype = half ? Dtype::kBf16 : Dtype::kE4m3;
    c.b_dtype = row.weight_only ? Dtype::kE4m3 : c.a_dtype;
    c.a.resize(static_cast<size_t>(n * kK));
    c.b.resize(static_cast<size_t>(n * kK));
    c.scale_a.assign(spec(row.order).scale_block ? static_cast<size_t>(n * groups_along(kK)) : 1, 1.0f);
    c.scale_b = c.scale_a;  // more than there are blocks of channels
    for (int64_t p = 0; p < count; ++p)
      for (const Term& t : probes_[static_cast<size_t>(p)]) {
        const int ea = std::clamp(t.exponent, -9, 8);
        const auto at = static_cast<size_t>(p * kK + t.at);
        c.a[at] = static_cast<uint16_t>(power(c.a_dtype, ea) | (t.sign < 0 ? sign_bit(c.a_dtype) : 0));
        c.b[at] = power(c.b_dtype, t.exponent - ea);
      }
    const Dtype out = row.fp32 ? Dtype::kF32 : Dtype::kBf16;
    const OnPlace on(place, c, out);
    Memory result = on.output();
    Launch launch;
    launch.device = &place.device(), launch.stream = place.stream();
    row.run(on.problem(row, result), launch);
    const std::vector<std::byte> bytes = bytes_of(result);
    std::vector<float> sums;
    for (int64_t p = 0; p < count; ++p) sums.push_back(load(out, ConstView(bytes.data(), out, n, n).at(p, p)));
    return sums;
  }

 private:
  std::vector<std::vector<Term>> probes_;
};

}  // namespace

int UnitBehaviour::chunk() const { return std::popcount(step); }

bool UnitBehaviour::is(const OrderSpec& order) const {
  const uint64_t adjacent = order.chunk >= 64 ? ~uint64_t{0} : (uint64_t{1} << order.chunk) - 1;
  return step == adjacent && align_bits == order.align_bits && result_bits == order.result_bits && truncates &&
         accumulator_aligned && promote_every == order.promote_every;
}

UnitBehaviour probe_unit(const Place& place, const ProofRow& row) {
  UnitBehaviour unit;
  // Beside +2^16 and -2^16 of one step, 2^(16 - j) is kept as long as j <= align_bits.
  constexpr int kMostBits = 30;
  {
    Probes probes;
    for (int j = 1; j <= kMostBits; ++j) probes.add({{0, 1, kTop}, {1, -1, kTop}, {2, 1, kTop - j}});
    const std::vector<float> sums = probes.run(place, row);
    for (int j = 1; j <= kMostBits && sums[static_cast<size_t>(j - 1)] != 0; ++j) unit.align_bits = j;
    if (unit.align_bits == kMostBits) unit.align_bits = -1;
  }
  Probes probes;
  // 2^9 + 2^(8 - j) in one step, minus 2^9 in a later one: kept as long as j + 1 <= result_bits.
  constexpr int kBase = 8, kMostResult = kBase - kBottom;
  std::vector<int64_t> kept;
  for (int j = 1; j <= kMostResult; ++j)
    kept.push_back(probes.add({{0, 1, kBase}, {1, 1, kBase}, {2, 1, kBase - j}, {kLater, -1, kBase + 1}}));
  // One place too low to be kept in a step with 2^16: where it survives it was in another step.
  const int lost = unit.align_bits < 0 ? kBottom : kTop - unit.align_bits - 1;
  std::vector<int64_t> step, chain;
  for (int64_t at = 2; at < kLater; ++at) step.push_back(probes.add({{0, 1, kTop}, {1, -1, kTop}, {at, 1, lost}}));
  // The accumulator holds it when +2^16 and -2^16 come: where it survives a new chain has begun (or it is not cut).
  for (int64_t at = kLater; at <= 512; at += 16)
    chain.push_back(probes.add({{0, 1, lost}, {at, 1, kTop}, {at + 1, -1, kTop}}));
  const int64_t below = probes.add({{0, 1, kTop}, {1, -1, kTop}, {2, -1, lost}});
  const std::vector<float> sums = probes.run(place, row);
  const auto nonzero = [&](int64_t probe) { return sums[static_cast<size_t>(probe)] != 0; };

  unit.result_bits = 1;
  for (size_t i = 0; i < kept.size() && nonzero(kept[i]); ++i) unit.result_bits = static_cast<int>(i) + 2;
  if (unit.result_bits > kMostResult) unit.result_bits = -1;
  unit.step = 3;
  for (size_t i = 0; i < step.size(); ++i)
    if (!nonzero(step[i])) unit.step |= uint64_t{1} << (i + 2);
  unit.accumulator_aligned = !nonzero(chain.front());
  for (size_t i = 0; unit.accumulator_aligned && i < chain.size() && !unit.promote_every; ++i)
    if (nonzero(chain[i])) unit.promote_every = static_cast<int>(kLater + 16 * static_cast<int64_t>(i));

  // 2^9 plus one and a half units in the last place kept: truncated to one, which is odd, so nearest-even would be two.
  if (unit.result_bits > 0 && kBase - unit.result_bits >= kBottom) {
    Probes last;
    const int half = kBase - unit.result_bits;
    last.add({{0, 1, kBase}, {1, 1, kBase}, {2, 1, half + 1}, {3, 1, half}, {kLater, -1, kBase + 1}});
    last.add({{0, -1, kBase}, {1, -1, kBase}, {2, -1, half + 1}, {3, -1, half}, {kLater, 1, kBase + 1}});
    const std::vector<float> rounded = last.run(place, row);
    const float unit_in_last_place = std::bit_cast<float>(static_cast<uint32_t>(half + 1 + 127) << 23);
    unit.truncates = !nonzero(below) && rounded[0] == unit_in_last_place && rounded[1] == -unit_in_last_place;
  }
  return unit;
}

}  // namespace samebits
