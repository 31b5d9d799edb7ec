// Equal bits, or an explanation: the first coordinate, both values in hex, the distance in ulps. Tests compare with
// this and never with a tolerance.
#pragma once
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "numerics/formats.h"
#include "samebits/order.h"
#include "samebits/types.h"

namespace samebits::testing {

/// The raw bits of one element.
inline uint32_t bits_at(const ConstView& v, int64_t row, int64_t col) {
  uint32_t bits = 0;
  std::memcpy(&bits, v.at(row, col), size_of(v.dtype));
  return bits;
}

/// Succeeds when both matrices have the same shape, dtype and bits.
inline ::testing::AssertionResult same_bits(const ConstView& got, const ConstView& want) {
  if (got.rows != want.rows || got.cols != want.cols || got.dtype != want.dtype)
    return ::testing::AssertionFailure() << fmt::format("[{},{}] {} against [{},{}] {}", got.rows, got.cols,
                                                        name(got.dtype), want.rows, want.cols, name(want.dtype));
  int64_t differ = 0, row = -1, col = -1;
  for (int64_t r = 0; r < got.rows; ++r) {
    if (got.col_stride == 1 && want.col_stride == 1 &&
        std::memcmp(got.at(r, 0), want.at(r, 0), static_cast<size_t>(got.cols) * size_of(got.dtype)) == 0)
      continue;
    for (int64_t c = 0; c < got.cols; ++c)
      if (bits_at(got, r, c) != bits_at(want, r, c) && differ++ == 0) row = r, col = c;
  }
  if (!differ) return ::testing::AssertionSuccess();
  const uint32_t g = bits_at(got, row, col), w = bits_at(want, row, col);
  return ::testing::AssertionFailure() << fmt::format(
             "{} of {} differ; first at [{},{}]: got 0x{:0{}x}, want 0x{:0{}x}, {} ulps", differ, got.rows * got.cols,
             row, col, g, 2 * size_of(got.dtype), w, 2 * size_of(got.dtype), ulps(got.dtype, g, w));
}

/// A matrix that owns its memory, filled with 0xa5 so that an unwritten element shows.
struct Matrix {
  std::vector<std::byte> bytes;
  Dtype dtype;
  int64_t rows, cols, row_stride;

  Matrix(Dtype dtype, int64_t rows, int64_t cols, int64_t row_stride = 0)
      : bytes(static_cast<size_t>(rows * (row_stride ? row_stride : cols)) * size_of(dtype), std::byte{0xa5}),
        dtype(dtype),
        rows(rows),
        cols(cols),
        row_stride(row_stride ? row_stride : cols) {}
  View view() { return View(bytes.data(), dtype, rows, cols, row_stride); }
  ConstView view() const { return ConstView(bytes.data(), dtype, rows, cols, row_stride); }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
};

/// splitmix64: the same numbers on every machine.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
};

/// FP32 values at the edges of FP32 and fp16, for scales and biases.
inline std::vector<float> edge_values() {
  const auto bits = [](uint32_t b) { return std::bit_cast<float>(b); };
  return {0.0f,     -0.0f,    bits(0x7f800000), bits(0xff800000), bits(0x7fc00001),
          1e30f,    -1e38f,   bits(1),          bits(0x800fffff), 1e-30f,
          65504.0f, 65520.0f, bits(0xffffffff), 0x1p-126f,        0x1p-20f,
          -3.0f};
}

/// Kinds of FP8 data that stress different parts of a matrix unit.
enum class Data { kAllPatterns, kNormal, kSubnormal, kMostlyZero, kCancelling };
inline constexpr Data kAllData[] = {Data::kAllPatterns, Data::kNormal, Data::kSubnormal, Data::kMostlyZero,
                                    Data::kCancelling};

/// One finite FP8 code (e4m3 or e5m2) of the kind.
inline uint8_t fp8_code(Random& random, Data kind, Dtype dtype = Dtype::kE4m3) {
  const int f = dtype == Dtype::kE4m3 ? 3 : 2;
  const auto finite = [&](uint32_t c) { return dtype == Dtype::kE4m3 ? (c & 0x7f) != 0x7f : (c & 0x7c) != 0x7c; };
  uint32_t code = random.below(256);
  switch (kind) {
    case Data::kAllPatterns: break;
    case Data::kNormal:  // a few exponents around the middle, both signs
      code = (code & (0x80u | ((1u << f) - 1))) | (((dtype == Dtype::kE4m3 ? 7u : 15u) - 3 + random.below(6)) << f);
      break;
    case Data::kSubnormal: code = (code & (0x80u | ((1u << f) - 1))) | (random.below(3) << f); break;
    case Data::kMostlyZero: code = random.below(8) ? 0 : code; break;
    case Data::kCancelling:  // any exponent, few fractions
      code = (code & 0x80) | (random.below(dtype == Dtype::kE4m3 ? 16 : 31) << f) | (random.below(2) << (f - 1));
      break;
  }
  while (!finite(code)) code = random.below(256);
  return static_cast<uint8_t>(code);
}

inline Matrix fp8_matrix(Random& random, Data kind, int64_t rows, int64_t cols, Dtype dtype = Dtype::kE4m3,
                         int64_t row_stride = 0) {
  Matrix m(dtype, rows, cols, row_stride);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) m.as<uint8_t>()[r * m.row_stride + c] = fp8_code(random, kind, dtype);
  return m;
}

/// Random bit patterns of the dtype (NaN, infinity and subnormals among them) or plain numbers.
inline Matrix float_matrix(Random& random, Dtype dtype, int64_t rows, int64_t cols, int64_t row_stride,
                           bool all_patterns) {
  Matrix m(dtype, rows, cols, row_stride);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      const float value = static_cast<float>((random.uniform() - 0.5) * (random.below(50) ? 4 : 300));
      const uint32_t bits = static_cast<uint32_t>(random.next());
      void* p = m.view().at(r, c);
      if (all_patterns)
        std::memcpy(p, &bits, size_of(dtype));
      else
        store(dtype, p, value);
    }
  return m;
}

/// The Orders that take FP8 operands, or 16-bit ones.
inline std::vector<OrderSpec> orders_of(Operands operands) {
  std::vector<OrderSpec> orders;
  for (const OrderSpec& order : kOrders)
    if (order.operands == operands) orders.push_back(order);
  return orders;
}

/// FP32 scales between 2^-12 and 2^-4 with full significands, now and then negative.
inline std::vector<float> random_scales(Random& random, int64_t count) {
  std::vector<float> s(static_cast<size_t>(count));
  for (float& x : s) {
    x = static_cast<float>((1.0 + random.uniform()) / (16 << random.below(9)));
    if (random.below(16) == 0) x = -x;
  }
  return s;
}

}  // namespace samebits::testing
