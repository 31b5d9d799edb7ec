// The tables as data: sm90.def included twice, to declare the kernels and to list the rows. Compiled by the host
// compiler.
#include <limits>

#include "cuda/tile.h"

namespace samebits::cuda {

#define RULE(...)
#define FIXED(...)
#define TILE(name, ...) extern const TileKernel kernel_##name;
namespace sm90 {
#include "cuda/sm90.def"
}
#undef TILE
#undef RULE
#undef FIXED

namespace {

constexpr int64_t kAnyM = std::numeric_limits<int64_t>::max();
constexpr bool Straight = false, Swapped = true;  // the operand words of the tables

#define RULE(...)
#define FIXED(...)
#define TILE(name, tile_m, tile_n, tile_k, cluster_m, cluster_n, schedule, operands, order, out) \
  {#name,     kArch,     tile_m,   tile_n,          tile_k,          cluster_m,                  \
   cluster_n, #schedule, operands, Order::k##order, OutKind::k##out, &kernel_##name},
namespace sm90 {
constexpr int kArch = 90;
using namespace samebits::cuda::sm90;
const Tile kTiles[] = {
#include "cuda/sm90.def"
};
}  // namespace sm90
#undef TILE
#undef RULE
#undef FIXED

#define TILE(...)
#define FIXED(...)
#define RULE(max_m, min_n, min_k, tile) {max_m, min_n, min_k, #tile},
constexpr Rule kRules[] = {
#include "cuda/sm90.def"
};
#undef RULE
#undef FIXED

#define RULE(...)
#define FIXED(tile) #tile,
constexpr std::string_view kFixed[] = {
#include "cuda/sm90.def"
};
#undef TILE
#undef RULE
#undef FIXED

}  // namespace

std::span<const Tile> tiles() { return sm90::kTiles; }
std::span<const Rule> rules() { return kRules; }
std::span<const std::string_view> fixed_tiles() { return kFixed; }

}  // namespace samebits::cuda
