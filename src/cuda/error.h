// CUDA status -> Error(kDeviceFault). For the .cpp and .cu files of this folder.
#pragma once
#include <cuda_runtime.h>

#include <string>

#include "samebits/error.h"

namespace samebits::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear what is not sticky
  throw Error(ErrorCode::kDeviceFault,
              std::string(what) + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

}  // namespace samebits::cuda
