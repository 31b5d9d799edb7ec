// The CPU backend for Orders whose terms are cut so late that a step does not fit the 32-bit lanes of chain-inl.h.
// Called by gemm.cpp.
#pragma once
#include "samebits/gemm.h"

namespace samebits::cpu {

/// Whether a step of the Order fits 32-bit lanes: its products are below 2^(align_bits + 2), and 33 terms are added.
constexpr bool fits_lanes(const OrderSpec& order) { return order.align_bits + 2 + 6 < 32; }

/// As gemm() (gemm.h), for any Order, in 64-bit integers: one output at a time, a tenth of the lanes' speed.
void wide_gemm(const GemmProblem& problem, int threads);

}  // namespace samebits::cpu
