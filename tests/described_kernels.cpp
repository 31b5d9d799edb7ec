// Kernels for tables.cpp in a build without CUDA: what choose() asks of them, and a launch that cannot happen, because
// there is no device. Linked into the tests and samebits_fit_rules in place of no_tables.cpp.
#include "cuda/tile.h"

#define FIXED(...)
#define TILE(name, ...)                  \
  extern const TileKernel kernel_##name; \
  const TileKernel kernel_##name{kShared, nullptr};

// CUTLASS's automatic stage count fills what a block may have: 227 KiB on datacenter GPUs, 99 KiB on the others.
namespace samebits::cuda::sm90 {
static constexpr int64_t kShared = 227 << 10;
#include "cuda/sm90.def"
}  // namespace samebits::cuda::sm90
namespace samebits::cuda::sm100 {
static constexpr int64_t kShared = 227 << 10;
#include "cuda/sm100.def"
}  // namespace samebits::cuda::sm100
namespace samebits::cuda::sm103 {
static constexpr int64_t kShared = 227 << 10;
#include "cuda/sm100.def"
}  // namespace samebits::cuda::sm103
namespace samebits::cuda {
static constexpr int64_t kShared = 48 << 10;  // two blocks an SM (mma.cuh)
namespace sm80 {
#include "cuda/sm80.def"
}
namespace sm86 {
#include "cuda/sm80.def"
}
namespace sm89 {
#include "cuda/sm89.def"
}
namespace sm89_half {
#include "cuda/sm80.def"
}
}  // namespace samebits::cuda
namespace samebits::cuda::sm120 {
static constexpr int64_t kShared = 99 << 10;
#include "cuda/sm120.def"
}  // namespace samebits::cuda::sm120
