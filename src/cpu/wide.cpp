// One output at a time in 64-bit integers: numerics/mma.h with operands taken apart once.
#include "cpu/wide.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "cpu/parallel.h"
#include "numerics/formats.h"
#include "numerics/mma.h"
#include "numerics/reference.h"

namespace samebits::cpu {
namespace {

constexpr int kZeroExponent = -100;  // of a zero operand: below every sum of exponents and of an accumulator

/// Rows taken apart, K filled up with zeros to whole steps.
struct Parts {
  std::vector<int8_t> exponents, significands;  // [rows, k]; significands signed
  std::vector<uint8_t> special;                 // a row holds a NaN or an infinity
  int64_t k;

  Parts(const ConstView& v, int chunk, int threads)
      : special(static_cast<size_t>(v.rows)), k((v.cols + chunk - 1) / chunk * chunk) {
    exponents.assign(static_cast<size_t>(v.rows * k), kZeroExponent);
    significands.assign(static_cast<size_t>(v.rows * k), 0);
    parallel_for(v.rows, row_grain(k), threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        for (int64_t col = 0; col < v.cols; ++col) {
          const Operand x = unpack(format_of(v.dtype), *static_cast<const uint8_t*>(v.at(row, col)));
          special[static_cast<size_t>(row)] |= x.special;
          if (!x.significand) continue;
          exponents[static_cast<size_t>(row * k + col)] = static_cast<int8_t>(x.exponent);
          significands[static_cast<size_t>(row * k + col)] = static_cast<int8_t>(x.sign * x.significand);
        }
    });
  }
};

struct Constants {
  int align_bits, result_bits, product_shift;
};

/// The step of numerics/mma.h for finite operands. `chunk` is a constant so that the loops unroll.
template <int chunk>
float step(const Constants& c, const int8_t* ea, const int8_t* sa, const int8_t* eb, const int8_t* sb, float acc) {
  const uint32_t acc_bits = std::bit_cast<uint32_t>(acc);
  int exponents[chunk];
  int largest = acc_bits << 1 ? static_cast<int>(acc_bits >> 23 & 255) - 127 : kZeroExponent;
  for (int i = 0; i < chunk; ++i) {
    exponents[i] = ea[i] + eb[i];
    largest = std::max(largest, exponents[i]);
  }
  if (largest <= kZeroExponent / 2) return 0.0f;  // nothing takes part
  int64_t sum = 0;
  for (int i = 0; i < chunk; ++i) {
    const int product = sa[i] * sb[i], sign = product >> 31;
    const uint32_t magnitude = static_cast<uint32_t>((product ^ sign) - sign) << c.product_shift;
    const int32_t term = static_cast<int32_t>(magnitude >> std::min(31, largest - exponents[i]));
    sum += (term ^ sign) - sign;
  }
  const int64_t acc_significand = acc_bits << 1 ? 0x800000 | (acc_bits & 0x7fffff) : 0;
  const int left = c.align_bits - 23 - (largest - (static_cast<int>(acc_bits >> 23 & 255) - 127));
  const int64_t term = left >= 0 ? acc_significand << std::min(left, 31) : acc_significand >> std::min(-left, 31);
  sum += acc_bits >> 31 ? -term : term;
  if (sum == 0) return 0.0f;
  uint64_t magnitude = static_cast<uint64_t>(sum < 0 ? -sum : sum);
  const int lead = 63 - std::countl_zero(magnitude);
  if (lead > c.result_bits) magnitude &= ~uint64_t{0} << (lead - c.result_bits);
  // result_bits <= 23 leave at most 24 significant bits: exact in FP32, and so is the power of two.
  const float scale = std::bit_cast<float>(static_cast<uint32_t>(largest - c.align_bits + 127) << 23);
  const float result = static_cast<float>(magnitude) * scale;
  return sum < 0 ? -result : result;
}

template <int chunk>
float accumulate(const OrderSpec& order, const Constants& c, const Parts& a, int64_t row, const Parts& b, int64_t col) {
  const size_t ra = static_cast<size_t>(row * a.k), rb = static_cast<size_t>(col * b.k);
  float total = 0.0f, chain = 0.0f;
  for (int64_t k = 0; k < a.k; k += chunk) {
    const size_t at = static_cast<size_t>(k);
    chain = step<chunk>(c, &a.exponents[ra + at], &a.significands[ra + at], &b.exponents[rb + at],
                        &b.significands[rb + at], chain);
    if (order.promote_every && ((k + chunk) % order.promote_every == 0 || k + chunk == a.k)) {
      total += chain;
      chain = 0.0f;
    }
  }
  return order.promote_every ? total : chain;
}

}  // namespace

void wide_gemm(const GemmProblem& p, int threads) {
  const OrderSpec& order = spec(p.order);
  const Parts a(p.a, order.chunk, threads), b(p.b, order.chunk, threads);
  const int fraction_bits = format_of(p.a.dtype).fraction_bits + format_of(p.b.dtype).fraction_bits;
  const Constants constants{order.align_bits, order.result_bits, order.align_bits - fraction_bits};
  const auto finite = order.chunk == 32 ? accumulate<32> : accumulate<16>;
  parallel_for(p.m() * p.n(), row_grain(p.k()), threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t m = i / p.n(), n = i % p.n();
      const bool special = a.special[static_cast<size_t>(m)] || b.special[static_cast<size_t>(n)];
      const float acc = special ? reference_accumulate(order, p.a, m, p.b, n) : finite(order, constants, a, m, b, n);
      const float bias = p.bias ? load(p.bias.dtype, p.bias.at(0, n)) : 0.0f;
      store(p.out.dtype, p.out.at(m, n),
            reference_epilogue(acc, p.scale_a.of_row(m), p.scale_b.of_row(n), p.bias ? &bias : nullptr));
    }
  });
}

}  // namespace samebits::cpu
