// The bare matrix unit of Hopper: one warpgroup, wgmma m64n8k32 or m64n8k16, no CUTLASS. A second way to the
// accumulator of an Order that the library's kernels do not share, and the only one here that takes e5m2. Used by
// record.cpp and record_half.cpp.
#pragma once
#include "samebits/gemm.h"

namespace samebits::record {

/// out[m,n] = the accumulator of a[m,:] . b[n,:] (no scales): a chain over K of one instruction after the other (32
/// FP8 or 16 bf16 / fp16 elements each), or with `promote_every` > 0 chains of that many elements added in FP32.
/// a [M,K], b [N,K], dense, both FP8 or both bf16 or both fp16, M a multiple of 64, N of 8; out FP32 [M,N]. Host memory
/// in and out; runs on the current device. Throws Error(kDeviceFault).
void wgmma_accumulate(ConstView a, ConstView b, int promote_every, float* out);

}  // namespace samebits::record
