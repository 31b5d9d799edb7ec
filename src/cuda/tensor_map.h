// A TMA descriptor of a view. Called by ring.cuh.
#pragma once
#include <cuda.h>

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

}  // namespace samebits::cuda
