// What choose() and gemm() agree on about legality. One statement of it: reason_not.
#pragma once
#include <optional>
#include <string>

#include "cuda/tile.h"
#include "samebits/gemm.h"

namespace samebits {

/// N, K and the row strides of a GPU call are multiples of this many FP8 elements: TMA moves 16 bytes.
inline constexpr int64_t kAlignment = 16;
/// Of how many elements N and K are multiples for an Order's rows: 16 bytes of activations.
constexpr int64_t alignment(Order order) {
  return spec(order).operands == Operands::kHalf ? kAlignment / 2 : kAlignment;
}

/// Why `tile` cannot compute the problem on the device, with the numbers; nothing if it can.
std::optional<std::string> reason_not(const Tile& tile, const DeviceInfo& device, int64_t m, int64_t n, int64_t k,
                                      Dtype out);

/// One sentence on why no row computes `order` on sm_<arch>, whatever the shape: too old, no FP8 unit, not in this
/// build, or a matrix unit that computes other Orders, which it names; nothing if there are rows.
std::optional<std::string> reason_against(int arch, Order order, OutKind out);

}  // namespace samebits
