// What broken kernels do, each a lie that prove_test.cpp tells `samebits prove` as a row of its own.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bits.h"
#include "core/slice.h"
#include "cpu/gemm.h"
#include "numerics/reference.h"

namespace samebits::testing {

using Lie = std::function<void(const GemmProblem&)>;
using Lies = std::vector<std::pair<std::string, Lie>>;

/// A row that computes outputs here and there, of a small problem all, by `element(p, m, n)`.
template <class Element>
Lie some_outputs(Element element) {
  return [element](const GemmProblem& p) {
    cpu::gemm(p, 0);
    const int64_t step = p.m() * p.n() * p.k() / 500'000 | 1;
    for (int64_t i = 0; i < p.m() * p.n(); i += step)
      store(p.out.dtype, p.out.at(i / p.n(), i % p.n()), element(p, i / p.n(), i % p.n()));
  };
}

inline float bias_of(const GemmProblem& p, int64_t n) { return load(p.bias.dtype, p.bias.at(0, n)); }

/// A unit with other constants than the Order's.
template <class Change>
Lie another_unit(Change change) {
  return some_outputs([change](const GemmProblem& p, int64_t m, int64_t n) {
    OrderSpec other = spec(p.order);
    change(other);
    const float acc = reference_accumulate(other, p.a, m, p.b, n), bias = p.bias ? bias_of(p, n) : 0;
    return reference_epilogue(acc, p.scale_a.of_row(m), p.scale_b.of_row(n), p.bias ? &bias : nullptr);
  });
}

/// K in two parts that are added in FP32, from M = 65 on.
inline void split_large_batches(const GemmProblem& p) {
  cpu::gemm(p, 0);
  const int64_t cut = p.k() / 256 * 128;
  if (p.m() <= 64 || cut == 0) return;
  Matrix parts[2] = {Matrix(Dtype::kF32, p.m(), p.n()), Matrix(Dtype::kF32, p.m(), p.n())};
  for (int i = 0; i < 2; ++i) {
    GemmProblem part = slice_k(p, i ? cut : 0, i ? p.k() - cut : cut);
    part.bias = ConstView();
    part.out = parts[i].view();
    cpu::gemm(part, 0);
  }
  for (int64_t m = 0; m < p.m(); ++m)
    for (int64_t n = 0; n < p.n(); ++n) {
      const int64_t at = m * p.n() + n;
      const float sum = parts[0].as<float>()[at] + parts[1].as<float>()[at];
      store(p.out.dtype, p.out.at(m, n), p.bias ? sum + bias_of(p, n) : sum);
    }
}

/// What a broken kernel of any Order may do: lies of large batches, and of shapes and strides.
inline const Lies kBatchLies = {{"one bit of the last row of a large batch",
                                 [](const GemmProblem& p) {
                                   cpu::gemm(p, 0);
                                   if (p.m() > 128) *static_cast<uint8_t*>(p.out.at(p.m() - 1, p.n() - 1)) ^= 1;
                                 }},
                                {"K in two parts from M = 65", split_large_batches}};

inline const Lies kShapeLies = {{"the last element of K left out where K is no multiple of 128",
                                 [](const GemmProblem& p) {
                                   const int64_t whole = p.k() > 128 ? p.k() / 128 * 128 : p.k();
                                   cpu::gemm(slice_k(p, 0, whole), 0);
                                 }},
                                {"a write past the last column",
                                 [](const GemmProblem& p) {
                                   cpu::gemm(p, 0);
                                   if (p.out.row_stride > p.n())
                                     std::memset(View(p.out).at(0, p.n()), 0, size_of(p.out.dtype));
                                 }},
                                {"a write past the last row",
                                 [](const GemmProblem& p) {
                                   cpu::gemm(p, 0);
                                   if (p.m() % 64 == 1)
                                     std::memset(View(p.out).at(p.m(), 0), 0,
                                                 static_cast<size_t>(p.n()) * size_of(p.out.dtype));
                                 }},
                                {"dense rows where they are padded", [](const GemmProblem& p) {
                                   GemmProblem q = p;
                                   // What is read of the padding is NaN, which the CPU backend takes one by one.
                                   if (p.m() * p.n() * p.k() < 2'000'000) q.a.row_stride = p.k();
                                   cpu::gemm(q, 0);
                                 }}};

/// The CPU backend with another problem.
template <class Change>
Lie instead(Change change) {
  return [change](const GemmProblem& p) {
    GemmProblem q = p;
    change(q);
    cpu::gemm(q, 0);
  };
}

inline const Lies kFp8Lies = {{"another Order from M = 65", instead([](GemmProblem& p) {
                                 if (p.m() > 64) p.order = Order::kHopperPromoted;
                               })}};

inline const Lies kBlockLies = {
    {"the scales of the first block for all", instead([](GemmProblem& p) { p.scale_a.col_stride = 0; })},
    {"the weight scales of the first 128 channels for all", instead([](GemmProblem& p) { p.scale_b.row_stride = 0; })},
    {"token scales as if dense",
     instead([](GemmProblem& p) { p.scale_a.row_stride = p.scale_a.cols, p.scale_a.col_stride = 1; })},
    {"a scale at a time", some_outputs([](const GemmProblem& p, int64_t m, int64_t n) {
       float acc = 0;
       for (int64_t k = 0; k < p.k(); k += 128) {
         const int64_t count = std::min<int64_t>(128, p.k() - k);
         const float chain =
             reference_accumulate(spec(p.order), p.a.slice_cols(k, count), m, p.b.slice_cols(k, count), n);
         acc = std::fma(chain * p.scale_a.at(m, k / 128), p.scale_b.at(n / 128, k / 128), acc);
       }
       return p.bias ? acc + bias_of(p, n) : acc;
     })}};

inline const Lies kHalfLies = {
    {"one alignment bit less", another_unit([](OrderSpec& unit) { unit.align_bits = 24; })},
    {"one result bit less", another_unit([](OrderSpec& unit) { unit.result_bits = 22; })},
    {"steps of 8", another_unit([](OrderSpec& unit) { unit.chunk = 8; })},
    {"exponents without a floor", another_unit([](OrderSpec& unit) { unit.least_exponent = -999; })},
    {"the weight's scale before the token's", some_outputs([](const GemmProblem& p, int64_t m, int64_t n) {
       const float acc = reference_accumulate(spec(p.order), p.a, m, p.b, n);
       const float t = p.scale_b.of_row(n) * acc, scale = p.scale_a.of_row(m);
       return p.bias ? std::fma(scale, t, bias_of(p, n)) : scale * t;
     })}};

/// vLLM's fallback: the scale goes into the weight, which is rounded once more.
inline const Lies kWeightOnlyLies = {
    {"the scale in the weight", some_outputs([](const GemmProblem& p, int64_t m, int64_t n) {
       Matrix scaled(p.a.dtype, 1, p.k());
       for (int64_t k = 0; k < p.k(); ++k)
         store(p.a.dtype, scaled.view().at(0, k), load(p.b.dtype, p.b.at(n, k)) * p.scale_b.of_row(n));
       const float acc = reference_accumulate(spec(p.order), p.a, m, scaled.view(), 0),
                   bias = p.bias ? bias_of(p, n) : 0;
       return reference_epilogue(acc, 1, 1, p.bias ? &bias : nullptr);
     })}};

}  // namespace samebits::testing
