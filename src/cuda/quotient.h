// x / s for the per-token quantizer on the GPU: a row's elements share s, so its reciprocal is rounded once and five
// instructions take the place of a division each. Plain C++ as well, so that a test without a GPU can hold it to `/`.
#pragma once
#include <cmath>

#ifdef __CUDACC__
#define SAMEBITS_HOST_DEVICE __host__ __device__
#else
#define SAMEBITS_HOST_DEVICE
#endif

namespace samebits::cuda {

struct Divisor {
  float value;       ///< the scale; 1 where that is infinite
  float reciprocal;  ///< 1 / scale, rounded to nearest
};

/// `reciprocal` is 1 / scale rounded to nearest; scale >= 2^-43, as every scale of the quantizers is.
SAMEBITS_HOST_DEVICE inline Divisor divisor_of(float scale, float reciprocal) {
  return {reciprocal == 0.0f ? 1.0f : scale, reciprocal};
}

/// A value that e4m3() rounds as it does x / scale: x / scale rounded to nearest where 2^-11 <= |x / scale| < 512,
/// else something on the same side of every rounding boundary. Two corrections by the exact remainder: the first brings
/// the quotient within an ulp, from where the second rounds correctly (Markstein, IBM J. R&D 34, 1990). Below 2^-11 the
/// remainder may underflow, but the code is a zero of the sign of x; from 512 up it is the largest one.
SAMEBITS_HOST_DEVICE inline float quotient(float x, Divisor d) {
  const float estimate = x * d.reciprocal;
  float q = fmaf(fmaf(-estimate, d.value, x), d.reciprocal, estimate);
  q = fmaf(fmaf(-q, d.value, x), d.reciprocal, q);
  return copysignf(fabsf(estimate) < 512.0f ? q : estimate, x);  // NaN: the estimate
}

}  // namespace samebits::cuda
