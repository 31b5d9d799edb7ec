// See tensor_map.h.
#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include <string>

#include "cuda/error.h"

namespace samebits::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Through the runtime, so that the library links no libcuda and loads on a machine without a driver.
Encode encoder() {
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
          "looking for cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess)
      throw Error(ErrorCode::kUnsupported, "this CUDA driver has no cuTensorMapEncodeTiled (CUDA 12.0 or later has)");
    return reinterpret_cast<Encode>(function);
  }();
  return encode;
}

}  // namespace

CUtensorMap tensor_map(const char* what, const ConstView& v, int chunk_bytes, int chunks, int box_rows) {
  const bool whole = whole_chunks(v, chunk_bytes);
  const uint64_t chunk = static_cast<uint64_t>(chunk_bytes), bytes = static_cast<uint64_t>(v.cols) * size_of(v.dtype);
  // One row has no stride; the descriptor wants one all the same.
  const uint64_t stride = v.rows == 1 ? (bytes + 15) / 16 * 16 : static_cast<uint64_t>(v.row_stride) * size_of(v.dtype);
  const cuuint64_t sizes[3] = {whole ? chunk : bytes, static_cast<cuuint64_t>(v.rows), whole ? bytes / chunk : 1};
  const cuuint64_t strides[2] = {stride, chunk};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(chunk_bytes), static_cast<cuuint32_t>(box_rows),
                             whole ? static_cast<cuuint32_t>(chunks) : 1},
                   steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result = encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, const_cast<void*>(v.data), sizes, strides,
                                    box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw Error(ErrorCode::kDeviceFault, std::string(what) + ": cuTensorMapEncodeTiled returned " +
                                             std::to_string(result) + " for [" + std::to_string(v.rows) + "," +
                                             std::to_string(v.cols) + "], row stride " + std::to_string(v.row_stride) +
                                             ", box of " + std::to_string(box_rows) + " rows");
  return map;
}

}  // namespace samebits::cuda
