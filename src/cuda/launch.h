// One launch of a kernel of our own: a grid of clusters, dependent on the previous kernel if the call asks for it.
// Called by ring.cuh and rows.cu.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>

#include "cuda/error.h"
#include "cuda/ring.h"
#include "samebits/gemm.h"

namespace samebits::cuda {

inline constexpr size_t kMaxDevices = 64;  ///< of one host; past it a lookup is made again

struct Grid {
  unsigned blocks, threads;
  unsigned cluster = 1;   ///< blocks of a cluster
  int shared_memory = 0;  ///< dynamic, bytes of a block
};

/// Launches kernel(args...) on launch.stream. A dependent launch needs compute capability 9.0: below it is a plain one.
template <class... Params, class... Args>
void launch_kernel(const char* what, void (*kernel)(Params...), const Grid& grid, const Launch& launch,
                   const Args&... args) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_memory);
  config.stream = static_cast<cudaStream_t>(launch.stream);
  config.attrs = attributes;
  if (launch.overlap != Overlap::kNone && launch.device->arch >= 90) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster > 1) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {grid.cluster, 1, 1};
  }
  check(cudaLaunchKernelEx(&config, kernel, args...), what);
}

/// Clusters of kCluster blocks, each with all the shared memory of an SM, that run at once.
template <int kCluster, class... Params>
int clusters_at_once(void (*kernel)(Params...), int threads, int static_bytes, const DeviceInfo& device) {
  if constexpr (kCluster <= 2) return static_cast<int>(cluster_slots(device.sms, kCluster));
  static std::atomic<int> known[kMaxDevices];  // of this kernel
  const auto ordinal = static_cast<size_t>(device.ordinal);
  if (ordinal < kMaxDevices)
    if (const int found = known[ordinal].load(std::memory_order_relaxed)) return found;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(device.sms / kCluster * kCluster);
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = static_cast<size_t>(device.shared_memory - static_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "cudaOccupancyMaxActiveClusters");
  clusters = std::max(1, clusters);
  if (ordinal < kMaxDevices) known[ordinal].store(clusters, std::memory_order_relaxed);
  return clusters;
}

/// Lets `kernel`, which has `static_bytes` beside its dynamic shared memory, ask for all that a block may have.
/// Note: the same value for every launch: the attribute is per function and device, and another thread's smaller value
/// between this call and the launch would refuse it.
template <class... Params>
void allow_all_shared_memory(void (*kernel)(Params...), int static_bytes, const DeviceInfo& device) {
  const int most = static_cast<int>(device.shared_memory) - static_bytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "shared memory");
  // Note: the driver's own choice leaves no room for a block of the next kernel beside this one.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        "shared memory carve-out");
}

}  // namespace samebits::cuda
