// The tables as data: sm90.def included to declare the kernels, then to list rows and fixed rows; sm90_rules.def for
// what was measured of them. Compiled by the host compiler.
#include <array>

#include "cuda/tile.h"

namespace samebits::cuda {

namespace {

// The operand words of the tables: which operand is the MMA's first, and whether the weight is FP8 beside 16 bits.
enum Word { Straight, Swapped, WeightOnly };

struct NamedCost {
  std::string_view tile;
  Cost cost;
};

template <size_t kRows, size_t kCosts>
constexpr std::array<Tile, kRows> with_costs(std::array<Tile, kRows> tiles, const NamedCost (&costs)[kCosts]) {
  for (Tile& tile : tiles)
    for (const NamedCost& named : costs)
      if (named.tile == tile.name) tile.cost = named.cost;
  return tiles;
}

}  // namespace

namespace sm90 {

#define FIXED(...)
#define TILE(name, ...) extern const TileKernel kernel_##name;
#include "cuda/sm90.def"
#undef TILE

#define SHAPE(...)
#define SLOW_MEMORY(...)
#define FAST_MEMORY(...)
#define COST(name, ...) {#name, {__VA_ARGS__}},
static constexpr NamedCost kCosts[] = {
#include "cuda/sm90_rules.def"
};
#undef COST
#undef FAST_MEMORY
#undef SLOW_MEMORY
#undef SHAPE

#define TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  Tile{#name,                                                                                    \
       90,                                                                                       \
       tile_m,                                                                                   \
       tile_n,                                                                                   \
       tile_k,                                                                                   \
       cluster_m,                                                                                \
       cluster_n,                                                                                \
       #schedule,                                                                                \
       operands != Straight,                                                                     \
       Order::k##order,                                                                          \
       OutKind::k##out,                                                                          \
       &kernel_##name,                                                                           \
       {},                                                                                       \
       operands == WeightOnly},
static constexpr std::array kTiles = with_costs(
    std::array{
#include "cuda/sm90.def"
    },
    kCosts);
#undef TILE
#undef FIXED

#define COST(...)
#define SHAPE(order, shape_n, shape_k, ...) {Order::k##order, shape_n, shape_k, 1, {{__VA_ARGS__}}},
#define SLOW_MEMORY SHAPE
#define FAST_MEMORY(...)
static constexpr ShapeRule kMeasured[] = {
#include "cuda/sm90_rules.def"
};
#undef SLOW_MEMORY
#undef FAST_MEMORY
#define SLOW_MEMORY(...)
#define FAST_MEMORY SHAPE
static constexpr ShapeRule kMeasuredFast[] = {
#include "cuda/sm90_rules.def"
};
#undef FAST_MEMORY
#undef SLOW_MEMORY
#undef SHAPE
#undef COST

#define TILE(...)
#define FIXED(tile) #tile,
static constexpr std::string_view kFixed[] = {
#include "cuda/sm90.def"
};
#undef TILE
#undef FIXED

}  // namespace sm90

std::span<const Tile> tiles() { return sm90::kTiles; }
std::span<const ShapeRule> measured(const DeviceInfo& device) {
  if (device.arch != 90 || device.sms != kMeasuredSms) return {};
  return device.gbps < kFastMemoryGbps ? sm90::kMeasured : sm90::kMeasuredFast;
}
std::span<const std::string_view> fixed_tiles() { return sm90::kFixed; }

}  // namespace samebits::cuda
