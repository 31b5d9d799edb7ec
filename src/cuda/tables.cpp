// The tables as data: sm90.def included to declare the kernels, then to list rows, rules and fixed rows. Compiled by
// the host compiler.
#include <limits>

#include "cuda/tile.h"

namespace samebits::cuda {

namespace {
constexpr int64_t kAnyM = std::numeric_limits<int64_t>::max();
constexpr bool Straight = false, Swapped = true;  // the operand words of the tables
}  // namespace

namespace sm90 {

#define RULE(...)
#define FIXED(...)
#define TILE(name, ...) extern const TileKernel kernel_##name;
#include "cuda/sm90.def"
#undef TILE
#define TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  {#name,     90,        tile_m,   tile_n,          tile_k,          cluster_m,                  \
   cluster_n, #schedule, operands, Order::k##order, OutKind::k##out, &kernel_##name},
static const Tile kTiles[] = {
#include "cuda/sm90.def"
};
#undef TILE
#undef RULE
#undef FIXED

#define TILE(...)
#define FIXED(...)
#define RULE(max_m, min_n, min_k, tile) {max_m, min_n, min_k, #tile},
static constexpr Rule kRules[] = {
#include "cuda/sm90.def"
};
#undef RULE
#undef FIXED

#define RULE(...)
#define FIXED(tile) #tile,
static constexpr std::string_view kFixed[] = {
#include "cuda/sm90.def"
};
#undef TILE
#undef RULE
#undef FIXED

}  // namespace sm90

std::span<const Tile> tiles() { return sm90::kTiles; }
std::span<const Rule> rules() { return sm90::kRules; }
std::span<const std::string_view> fixed_tiles() { return sm90::kFixed; }

}  // namespace samebits::cuda
