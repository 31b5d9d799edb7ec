// What gemm.cpp and its SIMD half share: how packed operands lie in memory, and the functions of one SIMD target.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "numerics/formats.h"
#include "numerics/mma.h"
#include "samebits/gemm.h"

namespace samebits::cpu {

/// 32-bit words that four elements of K (a quad) take in a packed operand; chain-inl.h has the layout.
inline constexpr int kQuadWords = 5;
/// Elements of K that are packed and multiplied at a time, so that a packed panel stays in a core's nearest cache. A
/// multiple of every OrderSpec::promote_every.
inline constexpr int kBlockK = 256;
/// Scales of a row within kBlockK, in an Order with scale_block = 128.
inline constexpr int kScalesOfBlock = kBlockK / 128;
/// Rows of `a` that are packed at a time.
inline constexpr int64_t kBlockM = 256;

/// Packed exponents of the two operands add up to FP32's bias, 127. A zero operand has 0, so a product with a zero is
/// at most 15 + 64, below every exponent that a nonzero term can have: 127 - 2 * 14 - 13 = 86 (the smallest e5m2
/// product, cut 13 bits below its leading bit).
inline constexpr int kExponentBiasA = 64;
inline constexpr int kExponentBiasB = 63;
/// Where the search for a step's largest exponent starts: below all terms, above OrderSpec::align_bits.
inline constexpr int kLowestExponent = 64;

/// The constants of an Order as a step uses them.
struct ChainConstants {
  int align_bits;
  uint32_t result_mask;  ///< clears the fraction bits of an FP32 that OrderSpec::result_bits does not keep
  int promote_steps;     ///< steps in one chain; 0: one chain over all of K
};

/// One FP8 code, taken apart for packing.
struct PackedCode {
  uint8_t exponent;
  bool special;  ///< NaN or infinity: the element is computed by the reference instead
  int16_t significand;
  int16_t sign;
};
using CodeTable = std::array<PackedCode, 256>;

constexpr CodeTable code_table(const Format& format, int exponent_bias, int significand_shift, int plus, int minus) {
  CodeTable table{};
  for (int code = 0; code < 256; ++code) {
    const Operand x = unpack(format, static_cast<uint8_t>(code));
    table[static_cast<size_t>(code)] = {static_cast<uint8_t>(x.significand ? x.exponent + exponent_bias : 0), x.special,
                                        static_cast<int16_t>(x.significand << significand_shift),
                                        static_cast<int16_t>(x.sign > 0 ? plus : minus)};
  }
  return table;
}

/// Packs codes[0], codes[stride], ... of one quad, `count` <= 4 of them, as zeros from there. Returns whether one of
/// them is special.
inline bool pack_quad(const CodeTable& table, const uint8_t* codes, int64_t stride, int count, int32_t* words) {
  uint32_t out[kQuadWords] = {};
  bool special = false;
  for (int i = 0; i < 4; ++i) {
    const PackedCode& c = table[i < count ? codes[i * stride] : 0];
    out[0] |= static_cast<uint32_t>(c.exponent) << (8 * i);
    out[1 + (i & 1)] |= static_cast<uint32_t>(static_cast<uint16_t>(c.significand)) << (16 * (i >> 1));
    out[3 + (i & 1)] |= static_cast<uint32_t>(static_cast<uint16_t>(c.sign)) << (16 * (i >> 1));
    special |= c.special;
  }
  for (int w = 0; w < kQuadWords; ++w) words[w] = static_cast<int32_t>(out[w]);
  return special;
}

/// Rows [first, first + count) of `a`, packed.
struct PackedRows {
  int64_t first = 0, count = 0;
  int64_t row_words = 0;  ///< words from one row to the next; K padded to whole steps
  std::vector<int32_t> words;
  std::vector<uint8_t> special;  ///< one flag per row: the row holds a NaN or an infinity
};

/// The half of the GEMM that is compiled once per SIMD target.
struct ChainBackend {
  int64_t lanes;          ///< output channels in a panel
  int significand_shift;  ///< on top of the align position, for the packed significands of `a`
  size_t scratch_bytes;   ///< for run_panel, 64-byte aligned
  /// All rows of `a` against channels [first_channel, first_channel + lanes) of problem.b, epilogue included.
  void (*run_panel)(const GemmProblem& problem, const PackedRows& a, int64_t first_channel, void* scratch);
};

}  // namespace samebits::cpu
