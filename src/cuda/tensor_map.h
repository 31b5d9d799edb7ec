// Host side of a Hopper launch: a TMA descriptor of a view, and a launch with a cluster and a dependency. Called by
// ring.cuh.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include "cuda/error.h"
#include "cuda/ring.h"
#include "samebits/gemm.h"

namespace samebits::cuda {

/// How a box of several chunks of `chunk_bytes` is read: whole (one load, coordinates 0, row, chunk) where the rows are
/// whole chunks long, else a load for each chunk (coordinates byte, row, 0).
inline bool whole_chunks(const ConstView& view, int chunk_bytes) {
  return view.cols * static_cast<int64_t>(size_of(view.dtype)) % chunk_bytes == 0;
}

/// Boxes of `box_rows` rows of `view` and of `chunks` chunks of `chunk_bytes` bytes (of one where chunks are not
/// whole), chunk by chunk, with the 128-byte swizzle; what lies outside reads as zero. `what` names the operand in
/// errors.
CUtensorMap tensor_map(const char* what, const ConstView& view, int chunk_bytes, int chunks, int box_rows);

/// Launches `kernel(params)` on launch.stream in clusters of `cluster` blocks, dependent if launch.overlap asks for it.
template <class Params>
void launch_kernel(void (*kernel)(Params), const Params& params, int blocks, int threads, int shared_memory,
                   int cluster, const Launch& launch) {
  // Note: the same value for every launch of a kernel: the attribute is per function and device, and another thread's
  // smaller value between this line and the launch would refuse it. kStaticBytes: what the kernel has beside it.
  const int most = static_cast<int>(launch.device->shared_memory) - kStaticBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "shared memory");
  // Note: the driver's own choice leaves no room for a block of the next kernel beside this one.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        "shared memory carve-out");
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_memory);
  config.stream = static_cast<cudaStream_t>(launch.stream);
  config.attrs = attributes;
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  if (launch.overlap != Overlap::kNone) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, params), "launching a kernel");
}

}  // namespace samebits::cuda
