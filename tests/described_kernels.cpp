// Kernels for tables.cpp in a build without CUDA: what choose() asks of them, and a launch that cannot happen, because
// there is no device. Linked into the tests and samebits_fit_rules in place of no_tables.cpp.
#include "cuda/tile.h"

namespace samebits::cuda::sm90 {

// CUTLASS's automatic stage count fills the 227 KiB that a block may have.
#define FIXED(...)
#define TILE(name, ...)                  \
  extern const TileKernel kernel_##name; \
  const TileKernel kernel_##name{227 << 10, nullptr};
#include "cuda/sm90.def"

}  // namespace samebits::cuda::sm90
