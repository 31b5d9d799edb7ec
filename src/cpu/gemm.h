// The CPU backend of the GEMM: every Order, bit for bit with numerics/reference.h, in SIMD lanes and threads. Called by
// src/core/gemm.cpp.
#pragma once
#include "samebits/gemm.h"

namespace samebits::cpu {

/// Computes the problem with `threads` threads (0: all of the machine). The caller has checked shapes, dtypes and
/// scales; K >= 1. Takes any strides. Neither the thread count nor M, N or the SIMD target changes a bit.
void gemm(const GemmProblem& problem, int threads);

/// The SIMD targets compiled into this backend, as a mask of Highway's HWY_* bits; the best that the CPU has runs.
int64_t simd_targets();

}  // namespace samebits::cpu
