// The tables of a build without CUDA: no rows. Apart from none.cpp, so that tests and samebits_fit_rules can link the
// described tables in its place.
#include "cuda/tile.h"

namespace samebits::cuda {

std::span<const Tile> tiles() { return {}; }
std::span<const ShapeRule> measured(const DeviceInfo&) { return {}; }
std::span<const std::string_view> fixed_tiles() { return {}; }
std::span<const int> archs() { return {}; }

}  // namespace samebits::cuda
