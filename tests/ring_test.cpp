// How a Ring kernel cuts a problem: by hand, and over random shapes what any geometry must hold.
#include "cuda/ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace samebits::cuda {
namespace {

constexpr int64_t kShared = 232448;  // bytes a block may have on Hopper
constexpr RingShape kDecode{1, 8, 4, 1, 1056, false}, kWide{2, 256, 1, 2, 18432, true},
    kTall{3, 192, 1, 1, 26880, true};

TEST(RingTest, ASmallWeightIsSpreadOverAllSMs) {
  const RingGeometry g = ring_geometry(kDecode, 1, 2048, 6144, 132, kShared);
  EXPECT_EQ(g.rows, 16);  // 64 rows would leave 100 of 132 SMs idle
  EXPECT_EQ(g.clusters, 128);
  EXPECT_EQ(g.tiles_x * g.tiles_y, 128);
}

TEST(RingTest, ALargeWeightIsFetchedFurtherAheadThanASmallOne) {
  const RingGeometry small = ring_geometry(kDecode, 8, 2048, 6144, 132, kShared);
  EXPECT_GE(small.early, 1);
  EXPECT_LE(int64_t{small.early} * small.clusters * small.x_bytes, 2 << 20);
  EXPECT_EQ(small.prefetch, 0);
  const RingGeometry large = ring_geometry(kDecode, 8, 28672, 4096, 132, kShared);
  EXPECT_EQ(large.early, large.stages);
  EXPECT_GT(large.prefetch, 0);
  const RingGeometry middle = ring_geometry(kDecode, 8, 12288, 2048, 132, kShared);  // 25 MB
  EXPECT_EQ(middle.early, middle.stages);
  EXPECT_TRUE(middle.prefetch > 0 &&
              middle.prefetch * middle.x_bytes * middle.clusters < large.prefetch * large.x_bytes * large.clusters);
  EXPECT_EQ(ring_geometry(kDecode, 9, 28672, 4096, 132, kShared).prefetch, 0);  // two tiles of tokens would fetch it
}

TEST(RingTest, ALargeWeightFillsTheLastWave) {
  const RingGeometry g = ring_geometry(kDecode, 8, 28672, 4096, 132, kShared);
  EXPECT_EQ(g.rows, 56);  // 512 tiles, 3.88 waves; 64 rows would be 448 tiles, 3.39 waves
}

TEST(RingTest, SlotsOfADeviceThatCannotBeAsked) {
  EXPECT_EQ(cluster_slots(132, 1), 132);
  EXPECT_EQ(cluster_slots(132, 2), 66);
  EXPECT_EQ(cluster_slots(132, 4), 30);  // as an H100 SXM says of itself
  EXPECT_EQ(cluster_slots(1, 4), 1);
}

TEST(RingTest, TokenRowsAreLoadedAsManyAsThereAre) {
  EXPECT_EQ(ring_geometry({1, 96, 1, 1, 0, true}, 65, 4096, 4096, 132, kShared).box_cols, 65);
  EXPECT_EQ(ring_geometry({1, 96, 1, 1, 0, true}, 97, 4096, 4096, 132, kShared).box_cols, 96);
  EXPECT_EQ(ring_geometry(kDecode, 1, 4096, 4096, 132, kShared).box_cols, 8);  // four chunks in one box: whole atoms
  EXPECT_EQ(ring_geometry(kWide, 65, 4096, 4096, 132, kShared).box_cols, 40);  // half of 80 for each of two blocks
}

TEST(RingTest, BlocksOfAClusterLoadAPartOfWhatTheyShareEach) {
  const RingGeometry tokens = ring_geometry({1, 72, 1, 4, 0, true}, 72, 4096, 4096, 30, kShared);
  EXPECT_EQ(tokens.box_cols, 24);           // whole swizzle atoms: the fourth block's are past the last token
  EXPECT_EQ(tokens.y_bytes, 4 * 24 * 128);  // and it loads them all the same
  RingShape both{2, 128, 1, 2, 0, true};
  both.cluster_y = 2;
  const RingGeometry g = ring_geometry(both, 1000, 4096, 4096, 30, kShared);
  EXPECT_EQ(g.tiles_y, 4);  // of 256 tokens
  EXPECT_EQ(g.box_cols, 64);
  EXPECT_EQ(g.box_rows, g.rows);  // of two MMA blocks
}

// One weight scale for each MMA block: its rows lie in one block of 128 channels, wherever the tile is.
TEST(RingTest, BlocksOfChannelsAreNotCrossed) {
  RingShape decode = kDecode;
  EXPECT_NE(128 % ring_geometry(decode, 8, 28672, 4096, 132, kShared).rows, 0);  // the control: 56 rows do cross
  decode.block_scales = true;
  for (int64_t n = 16; n < 40000; n += 1008)
    for (int64_t m : {1, 8, 100, 4096}) {
      const RingGeometry g = ring_geometry(decode, m, n, 7168, 132, kShared);
      ASSERT_EQ(128 % g.rows, 0) << m << " " << n;
    }
  // Stages hold their scales too.
  const RingGeometry with = ring_geometry(decode, 1, 4096, 7168, 132, kShared);
  decode.block_scales = false;
  const RingGeometry without = ring_geometry(decode, 1, 4096, 7168, 132, kShared);
  ASSERT_EQ(with.rows, without.rows);
  ASSERT_EQ(with.stages, without.stages);
  EXPECT_EQ(with.shared_memory - without.shared_memory, with.stages * 4 * 4 * scale_floats(1, 8));
}

TEST(RingTest, EveryGeometryCoversTheProblemAndFits) {
  std::mt19937_64 random(1);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  for (int i = 0; i < 100000; ++i) {
    RingShape shape = i % 3 == 0 ? kDecode : i % 3 == 1 ? kWide : kTall;
    shape.block_scales = i % 2 == 1;
    if (shape.chunks == 1) shape.cluster_y = 1 + i % 5 / 3;
    const int64_t m = 1 + below(9000), n = 16 * (1 + below(4000)), k = 16 * (1 + below(2000));
    const int64_t slots = 1 + below(200);
    const RingGeometry g = ring_geometry(shape, m, n, k, slots, kShared);
    ASSERT_GE(int64_t{g.tiles_x} * g.rows * shape.blocks * shape.cluster, n)
        << m << " " << n << " " << k << " " << slots;
    ASSERT_GE(int64_t{g.tiles_y} * shape.cols * shape.cluster_y, m) << m << " " << n << " " << k << " " << slots;
    ASSERT_EQ(g.box_rows * shape.cluster_y, g.rows * shape.blocks);
    ASSERT_TRUE(g.box_rows >= 8 && g.box_cols >= 1);  // every block of a cluster loads a box (ring.cpp)
    ASSERT_GE(g.box_cols * shape.cluster, std::min<int64_t>(m, shape.cols)) << m;
    ASSERT_TRUE(g.rows % 8 == 0 && g.rows >= 8 && g.rows <= 64) << g.rows;
    ASSERT_TRUE(g.stages >= 2 && g.stages <= kMaxStages) << g.stages;
    ASSERT_LE(g.shared_memory, kShared - 512) << m << " " << n << " " << k << " " << slots;
    ASSERT_EQ(g.x_bytes % 1024, 0);
    ASSERT_EQ(g.y_bytes % 1024, 0);
    ASSERT_LE(g.clusters, g.slots);
    ASSERT_TRUE(g.early >= 1 && g.early <= g.stages) << g.early;
    ASSERT_TRUE(g.tiles_y == 1 || g.prefetch == 0);  // every tile of tokens would fetch the weight again
    ASSERT_TRUE(g.group >= 1 && g.group <= g.tiles_y) << g.group;
  }
}

}  // namespace
}  // namespace samebits::cuda
