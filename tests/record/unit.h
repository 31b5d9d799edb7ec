// The bare matrix unit of Hopper: one warpgroup, wgmma m64n8k32, no CUTLASS. A second way to the accumulator of an
// Order that the library's kernels do not share, and the only one here that takes e5m2. Used by record.cpp.
#pragma once
#include "samebits/gemm.h"

namespace samebits::record {

/// out[m,n] = the accumulator of a[m,:] . b[n,:] (no scales): a chain over K of chunks of 32, or with `promote_every` >
/// 0 chains of that many elements added in FP32. a [M,K], b [N,K], dense, M a multiple of 64, N of 8; out FP32 [M,N].
/// Host memory in and out; runs on the current device. Throws Error(kDeviceFault).
void wgmma_accumulate(ConstView a, ConstView b, int promote_every, float* out);

}  // namespace samebits::record
