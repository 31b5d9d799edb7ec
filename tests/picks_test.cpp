// From measured times to picks: as few as keep every M near its best row.
#include "core/picks.h"

#include "bits.h"

namespace samebits::testing {
namespace {

const DeviceInfo& hopper() {
  static const DeviceInfo device = [] {
    DeviceInfo d;
    d.arch = 90, d.sms = 132, d.gbps = 3352, d.name = "a Hopper";
    return d;
  }();
  return device;
}

/// Rows without a Cost: between measured M their times are interpolated as they are.
const Tile* row(int i) {
  static const std::array<Tile, 3> rows = [] {
    std::array<Tile, 3> r = {};
    r[0].name = "narrow", r[1].name = "middle", r[2].name = "wide";
    return r;
  }();
  return &rows[static_cast<size_t>(i)];
}

std::vector<std::pair<int64_t, std::string_view>> picks_of(const std::vector<ShapeTimes>& times) {
  const ShapeRule rule = make_rule(Order::kHopperFast, 64, 128, times);
  EXPECT_EQ(rule.order, Order::kHopperFast);
  EXPECT_EQ(rule.n, 64);
  EXPECT_EQ(rule.k, 128);
  std::vector<std::pair<int64_t, std::string_view>> picks;
  for (const Pick& pick : rule.picks)
    if (pick.max_m) picks.emplace_back(pick.max_m, pick.kernel);
  return picks;
}

using Expected = std::vector<std::pair<int64_t, std::string_view>>;

TEST(PicksTest, EachRowRunsAsFarAsItIsWithinTheLoss) {
  const ShapeTimes t{&hopper(),
                     {{1, {{row(0), 1.0}, {row(1), 1.004}}},
                      {2, {{row(0), 1.3}, {row(1), 1.0}}},
                      {4, {{row(0), 1.5}, {row(1), 1.0}}}}};
  EXPECT_EQ(picks_of({t}), (Expected{{4, "middle"}}));
  ShapeTimes strict = t;
  strict.us[1][row(1)] = 1.02;
  EXPECT_EQ(picks_of({strict}), (Expected{{1, "narrow"}, {4, "middle"}}));
}

TEST(PicksTest, BetweenMeasuredMTheTimesAreInterpolated) {
  // narrow grows from 1 to 4, wide stays at 2: they cross at the middle of the logarithms of 4 and 64.
  const ShapeTimes t{&hopper(), {{4, {{row(0), 1.0}, {row(2), 2.0}}}, {64, {{row(0), 4.0}, {row(2), 2.0}}}}};
  EXPECT_EQ(picks_of({t}), (Expected{{16, "narrow"}, {64, "wide"}}));
  EXPECT_EQ(make_rule(Order::kHopperFast, 64, 128, {{t}}).min_m, 4);
}

TEST(PicksTest, SeveralDevicesGetTheRowThatIsGoodOnAll) {
  const ShapeTimes one{&hopper(), {{8, {{row(0), 1.0}, {row(1), 1.004}, {row(2), 2.0}}}}};
  const ShapeTimes other{&hopper(), {{8, {{row(0), 2.0}, {row(1), 1.004}, {row(2), 1.0}}}}};
  EXPECT_EQ(picks_of({one, other}), (Expected{{8, "middle"}}));
}

TEST(PicksTest, ARowThatWasNotMeasuredIsNotPicked) {
  const ShapeTimes t{&hopper(), {{8, {{row(0), 1.0}}}, {16, {{row(0), 9.0}, {row(1), 1.0}}}}};
  EXPECT_EQ(picks_of({t}), (Expected{{8, "narrow"}, {16, "middle"}}));
}

TEST(PicksTest, MoreChangesThanFitGiveUpTheSmallestFirst) {
  ShapeTimes t{&hopper(), {}};
  for (int i = 0; i < 40; ++i) {
    const double loss = i == 20 ? 1.5 : 1.02;
    t.us[i + 1] = {{row(0), i % 2 ? loss : 1.0}, {row(1), i % 2 ? 1.0 : loss}};
  }
  const Expected picks = picks_of({t});
  EXPECT_LE(picks.size(), kMaxPicks);
  const auto at_21 = std::find_if(picks.begin(), picks.end(), [](const auto& pick) { return pick.first >= 21; });
  ASSERT_NE(at_21, picks.end());
  EXPECT_EQ(at_21->second, "narrow") << "the one loss that matters is kept";
}

}  // namespace
}  // namespace samebits::testing
