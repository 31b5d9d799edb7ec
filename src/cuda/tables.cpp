// The tables as data: each .def of the build (table.inc), joined; sm90_rules.def for what was measured. Compiled by the
// host compiler with SAMEBITS_SM<NN>=1 for each architecture of the build.
#include <algorithm>
#include <array>

#include "cuda/operands.h"
#include "cuda/tile.h"

namespace samebits::cuda {

namespace {

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

template <class T, size_t... kSizes>
constexpr auto joined(const std::array<T, kSizes>&... parts) {
  std::array<T, (kSizes + ... + 0)> all{};
  auto at = all.begin();
  ((at = std::copy(parts.begin(), parts.end(), at)), ...);
  return all;
}

}  // namespace

#if SAMEBITS_SM80
#define SAMEBITS_TABLE sm80
#define SAMEBITS_TABLE_ARCH 80
#define SAMEBITS_DEF "cuda/sm80.def"
#include "cuda/table.inc"
#endif

#if SAMEBITS_SM86
#define SAMEBITS_TABLE sm86
#define SAMEBITS_TABLE_ARCH 86
#define SAMEBITS_DEF "cuda/sm80.def"
#include "cuda/table.inc"
#endif

#if SAMEBITS_SM89
#define SAMEBITS_TABLE sm89
#define SAMEBITS_TABLE_ARCH 89
#define SAMEBITS_DEF "cuda/sm89.def"
#include "cuda/table.inc"
#define SAMEBITS_TABLE sm89_half
#define SAMEBITS_TABLE_ARCH 89
#define SAMEBITS_DEF "cuda/sm80.def"
#include "cuda/table.inc"
#endif

#if SAMEBITS_SM90
#define SAMEBITS_TABLE sm90
#define SAMEBITS_TABLE_ARCH 90
#define SAMEBITS_DEF "cuda/sm90.def"
#include "cuda/table.inc"

namespace sm90 {

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
static constexpr std::array kMeasuredRows = with_costs(kRows, kCosts);

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

}  // namespace sm90
#endif

#if SAMEBITS_SM100
#define SAMEBITS_TABLE sm100
#define SAMEBITS_TABLE_ARCH 100
#define SAMEBITS_DEF "cuda/sm100.def"
#include "cuda/table.inc"
#endif

#if SAMEBITS_SM103
#define SAMEBITS_TABLE sm103
#define SAMEBITS_TABLE_ARCH 103
#define SAMEBITS_DEF "cuda/sm100.def"
#include "cuda/table.inc"
#endif

#if SAMEBITS_SM120
#define SAMEBITS_TABLE sm120
#define SAMEBITS_TABLE_ARCH 120
#define SAMEBITS_DEF "cuda/sm120.def"
#include "cuda/table.inc"
#endif

namespace {

// sm90 first: its rows are the many.
constexpr std::array kTiles = joined<Tile>(
#if SAMEBITS_SM90
    sm90::kMeasuredRows,
#endif
#if SAMEBITS_SM80
    sm80::kRows,
#endif
#if SAMEBITS_SM86
    sm86::kRows,
#endif
#if SAMEBITS_SM89
    sm89::kRows, sm89_half::kRows,
#endif
#if SAMEBITS_SM100
    sm100::kRows,
#endif
#if SAMEBITS_SM103
    sm103::kRows,
#endif
#if SAMEBITS_SM120
    sm120::kRows,
#endif
    std::array<Tile, 0>{});

constexpr std::array kFixed = joined<std::string_view>(
#if SAMEBITS_SM90
    sm90::kFixed,
#endif
#if SAMEBITS_SM80  // the names of the three are the same
    sm80::kFixed,
#elif SAMEBITS_SM86
    sm86::kFixed,
#elif SAMEBITS_SM89
    sm89_half::kFixed,
#endif
#if SAMEBITS_SM89
    sm89::kFixed,
#endif
#if SAMEBITS_SM100
    sm100::kFixed,
#endif
#if SAMEBITS_SM103 && !SAMEBITS_SM100  // the names are the same
    sm103::kFixed,
#endif
#if SAMEBITS_SM120
    sm120::kFixed,
#endif
    std::array<std::string_view, 0>{});

constexpr int kArchs[] = {
    0,
#if SAMEBITS_SM80
    80,
#endif
#if SAMEBITS_SM86
    86,
#endif
#if SAMEBITS_SM89
    89,
#endif
#if SAMEBITS_SM90
    90,
#endif
#if SAMEBITS_SM100
    100,
#endif
#if SAMEBITS_SM103
    103,
#endif
#if SAMEBITS_SM120
    120,
#endif
};

}  // namespace

std::span<const Tile> tiles() { return kTiles; }
std::span<const std::string_view> fixed_tiles() { return kFixed; }
std::span<const int> archs() { return std::span(kArchs).subspan(1); }
std::span<const ShapeRule> measured(const DeviceInfo& device) {
#if SAMEBITS_SM90
  if (device.arch == 90 && device.sms == kMeasuredSms)
    return device.gbps < kFastMemoryGbps ? std::span<const ShapeRule>(sm90::kMeasured) : sm90::kMeasuredFast;
#endif
  (void)device;
  return {};
}

}  // namespace samebits::cuda
