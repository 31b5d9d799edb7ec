// The part of a problem over a range of K: what no kernel may do, so the controls of the proofs do it.
#pragma once
#include "samebits/gemm.h"

namespace samebits {

/// Elements [first, first + count) of K. With block scales the range starts a block, or lies within one.
inline GemmProblem slice_k(GemmProblem p, int64_t first, int64_t count) {
  p.a = p.a.slice_cols(first, count);
  p.b = p.b.slice_cols(first, count);
  if (const int64_t block = spec(p.order).scale_block)
    for (Scales* scales : {&p.scale_a, &p.scale_b}) {
      scales->data += first / block * scales->col_stride;
      scales->cols = (count + block - 1) / block;
    }
  return p;
}

}  // namespace samebits
