// choose() on described devices, without a GPU: legal rows only, one Order, and every refusal with its numbers.
#include "core/choose.h"

#include "bits.h"
#include "cuda/cuda.h"

namespace samebits::testing {
namespace {

DeviceInfo hopper(int sms = 132) {
  DeviceInfo d;
  d.arch = 90, d.sms = sms, d.shared_memory = 232448, d.ordinal = 0, d.name = "a Hopper";
  return d;
}

std::string refusal(const DeviceInfo& device, Order order, int64_t m, int64_t n, int64_t k, Dtype out = Dtype::kBf16) {
  try {
    choose(device, order, m, n, k, out);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    return e.what();
  }
  return "accepted";
}

TEST(ChooseTest, TheCpuTakesEverything) {
  for (const OrderSpec& s : kOrders) EXPECT_EQ(choose(cpu_device(), s.order, 3, 5, 7).kernel, "cpu");
}

TEST(ChooseTest, AnEmptyKIsBadInputEverywhere) {
  for (const DeviceInfo& device : {cpu_device(), hopper()})
    EXPECT_THROW(choose(device, Order::kHopperFast, 17, 32, 0), Error);
}

TEST(ChooseTest, UnknownArchitecturesAreRefusedByName) {
  DeviceInfo turing = hopper();
  turing.arch = 75, turing.name = "Tesla T4";
  const std::string text = refusal(turing, Order::kHopperFast, 1, 16, 16);
  EXPECT_NE(text.find("Tesla T4 (sm_75)"), std::string::npos) << text;
}

#ifdef SAMEBITS_TEST_SM90
// A million random shapes: the row is of the Order asked for and legal, and the choice is a pure function.
TEST(ChooseTest, AMillionShapesGetALegalRowOfTheOrder) {
  Random random{1};
  for (int i = 0; i < 1'000'000; ++i) {
    const Order order = random.below(2) ? Order::kHopperFast : Order::kHopperPromoted;
    const Dtype out = random.below(8) ? Dtype::kBf16 : Dtype::kF32;
    const int64_t m = 1 + (random.next() >> (44 + random.below(20))), n = 16 * (1 + random.below(4096)),
                  k = 16 * (1 + random.below(4096));
    const DeviceInfo device = hopper(78 + static_cast<int>(random.below(55)));
    const Plan plan = choose(device, order, m, n, k, out);
    ASSERT_EQ(plan.tile->order, order);
    ASSERT_FALSE(reason_not(*plan.tile, device, m, n, k, out)) << plan.kernel;
    ASSERT_GE(plan.rule, 0);
    ASSERT_EQ(choose(device, order, m, n, k, out).tile, plan.tile);
  }
}

TEST(ChooseTest, AnUncertifiedDeviceIsHeldToTheFixedRow) {
  DeviceInfo device = hopper();
  device.certified = false;
  for (int64_t m : {1, 64, 8192}) EXPECT_EQ(choose(device, Order::kHopperFast, m, 4096, 4096).kernel, "seed64x64x256");
}

TEST(ChooseTest, RefusalsHaveTheNumbers) {
  EXPECT_NE(refusal(hopper(), Order::kHopperFast, 1, 17, 16).find("N=17"), std::string::npos);
  EXPECT_NE(refusal(hopper(), Order::kHopperFast, 1, 16, 24).find("K=24"), std::string::npos);
  EXPECT_NE(refusal(hopper(), Order::kAdaFast, 1, 16, 16).find("no row of this Order for sm_90"), std::string::npos);
  DeviceInfo small = hopper();
  small.shared_memory = 65536;
  EXPECT_NE(refusal(small, Order::kHopperFast, 1, 16, 16).find("65536"), std::string::npos);
}

TEST(ChooseTest, EveryRuleAndFixedRowNamesATile) {
  const auto exists = [](std::string_view name) {
    return std::any_of(cuda::tiles().begin(), cuda::tiles().end(), [&](const Tile& t) { return t.name == name; });
  };
  for (const Rule& rule : cuda::rules()) EXPECT_TRUE(exists(rule.tile)) << rule.tile;
  for (std::string_view fixed : cuda::fixed_tiles()) EXPECT_TRUE(exists(fixed)) << fixed;
}

TEST(ChooseTest, RowsCanBeAskedForByName) {
  for (const Tile& tile : cuda::tiles()) {
    const Dtype out = tile.out == OutKind::kFloat ? Dtype::kF32 : Dtype::kF16;
    EXPECT_EQ(choose_named(hopper(), tile.name, 1, 16, 16, out).tile, &tile);
  }
  EXPECT_THROW(choose_named(hopper(), "s1x1x1", 1, 16, 16), Error);
}
#endif

}  // namespace
}  // namespace samebits::testing
