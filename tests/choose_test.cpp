// choose() on described devices, without a GPU: legal rows only, one Order, and every refusal with its numbers.
// cost_test.cpp has what its choices cost.
#include "core/choose.h"

#include <set>

#include "bits.h"
#include "cuda/cuda.h"
#include "files.h"
#include "samebits/quantize.h"

namespace samebits::testing {
namespace {

DeviceInfo hopper(int sms = 132, int gbps = 3352) {
  DeviceInfo d;
  d.arch = 90, d.sms = sms, d.gbps = gbps, d.shared_memory = 232448, d.ordinal = 0, d.name = "a Hopper";
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

// A million random shapes on every Hopper there is: the row is of the Order asked for and legal, the choice is a pure
// function, and a larger M never needs less workspace (a graph's largest M sizes it for all).
TEST(ChooseTest, AMillionShapesGetALegalRowOfTheOrder) {
  Random random{1};
  std::vector<DeviceInfo> devices;
  for (const auto& [sms, gbps] : {std::pair(132, 3352), {132, 4917}, {114, 2039}, {78, 4022}, {1, 0}})
    devices.push_back(hopper(sms, gbps));
  std::set<Source> sources;
  for (int i = 0; i < 1'000'000; ++i) {
    const Order order = random.below(2) ? Order::kHopperFast : Order::kHopperPromoted;
    const Dtype out = random.below(8) ? Dtype::kBf16 : Dtype::kF32;
    const int64_t m = 1 + (random.next() >> (44 + random.below(20)));
    int64_t n = 16 * (1 + random.below(4096)), k = 16 * (1 + random.below(4096));
    if (random.below(8) == 0) n = 4096, k = random.below(2) ? 2048 : 4096;  // measured
    const DeviceInfo& device = devices[random.below(devices.size())];
    const Plan plan = choose(device, order, m, n, k, out);
    ASSERT_EQ(plan.tile->order, order);
    ASSERT_EQ(plan.kernel, plan.tile->name);
    ASSERT_FALSE(reason_not(*plan.tile, device, m, n, k, out)) << plan.kernel;
    ASSERT_EQ(plan.source == Source::kPredicted, plan.max_m == 0);
    sources.insert(plan.source);
    ASSERT_EQ(choose(device, order, m, n, k, out).tile, plan.tile);
    ASSERT_LE(plan.workspace_bytes, choose(device, order, m + random.below(4096), n, k, out).workspace_bytes);
  }
  EXPECT_EQ(sources, (std::set{Source::kMeasured, Source::kPredicted}));
}

/// A GPU of an architecture with the shared memory of its kind.
DeviceInfo gpu(int arch, bool certified) {
  DeviceInfo d = hopper(arch == 89 || arch == 120 ? 128 : 132);
  d.arch = arch, d.certified = certified, d.name = "a GPU";
  if (arch == 86 || arch == 89 || arch == 120) d.shared_memory = 99 << 10;
  if (arch == 80) d.shared_memory = 163 << 10;
  return d;
}

struct Unit {
  int arch;
  std::vector<Order> orders;
  std::vector<Dtype> outs;
  bool weight_only = false;
};
const std::vector<Unit> kUnits = {
    {80, {Order::kAmpereBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}},
    {80, {Order::kAmpereBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}, true},
    {86, {Order::kAmpereBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}},
    {86, {Order::kAmpereBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}, true},
    {89, {Order::kAdaFast, Order::kAdaPromoted}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}},
    {89, {Order::kAmpereBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}},
    {89, {Order::kAmpereBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}, true},
    {90, {Order::kHopperFast, Order::kHopperPromoted}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}},
    {90, {Order::kHopperBlock128}, {Dtype::kBf16, Dtype::kF16}},
    {90, {Order::kHopperBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}},
    {90, {Order::kHopperBf16}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}, true},
    {100, {Order::kBlackwellFast}, {Dtype::kBf16, Dtype::kF16}},
    {103, {Order::kBlackwellFast}, {Dtype::kBf16, Dtype::kF16}},
    {120, {Order::kSm120Fast}, {Dtype::kBf16, Dtype::kF16, Dtype::kF32}}};

// On every architecture with rows: its own Orders, a row built for it, and without a certificate one row whatever M.
TEST(ChooseTest, EveryArchitectureComputesItsOwnOrders) {
  for (const Unit& unit : kUnits)
    for (Order order : unit.orders)
      for (Dtype out : unit.outs) {
        std::set<std::string_view> fixed, certified;
        for (int64_t m : {1, 8, 16, 17, 64, 65, 100, 128, 129, 1000, 4096, 65536})
          for (const auto& [n, k] : {std::pair(4096, 2048), {1024, 2048}, {16, 16}, {151936, 2048}, {2048, 6144}})
            for (bool proven : {true, false}) {
              const DeviceInfo device = gpu(unit.arch, proven);
              const Plan plan = choose(device, order, m, n, k, out, nullptr, unit.weight_only);
              ASSERT_EQ(plan.tile->arch, unit.arch);
              ASSERT_EQ(plan.tile->weight_only, unit.weight_only);
              ASSERT_EQ(plan.tile->order, order);
              ASSERT_FALSE(reason_not(*plan.tile, device, m, n, k, out));
              ASSERT_EQ(plan.source == Source::kFixed, !proven);
              (proven ? certified : fixed).insert(plan.kernel);
            }
        EXPECT_EQ(fixed.size(), 1u) << unit.arch << " " << name(order) << " " << name(out);
        EXPECT_GE(certified.size(), out == Dtype::kF32 ? 1u : 2u) << unit.arch << " " << name(order);
      }
}

TEST(ChooseTest, OrdersOfAnotherUnitAreRefusedWithItsOwn) {
  for (const Unit& unit : kUnits)
    for (const OrderSpec& order : orders_of(Operands::kFp8)) {
      if (unit.arch < 89) continue;  // no FP8 unit at all: another sentence, below
      const auto computes = [&](const Unit& other) {
        return other.arch == unit.arch && std::count(other.orders.begin(), other.orders.end(), order.order);
      };
      if (std::any_of(kUnits.begin(), kUnits.end(), computes)) continue;
      for (bool certified : {true, false}) {
        const std::string text = refusal(gpu(unit.arch, certified), order.order, 64, 4096, 2048);
        EXPECT_NE(text.find(fmt::format("there is no row of this Order for sm_{}; it has rows of: ", unit.arch)),
                  std::string::npos)
            << text;
        EXPECT_NE(text.find(name(unit.orders.front())), std::string::npos) << text;
      }
    }
  EXPECT_NE(refusal(gpu(100, true), Order::kBlackwellFast, 1, 16, 16, Dtype::kF32).find("no Order with this output"),
            std::string::npos);
}

TEST(ChooseTest, ArchitecturesWithoutFp8OrKernelsAreRefusedWithASentence) {
  for (const auto& [arch, why] : {std::pair(61, "sm_61 has neither an FP8 nor a BF16 matrix unit"),
                                  {70, "sm_70 has neither"},
                                  {75, "sm_75 has neither"},
                                  {80, "sm_80 has no FP8 matrix unit; sm_89 is the first with one"},
                                  {86, "sm_86 has no FP8"},
                                  {87, "sm_87 has no FP8"},
                                  {110, "this build has no kernels for sm_110"},
                                  {121, "this build has no kernels for sm_121"}})
    for (const OrderSpec& order : orders_of(Operands::kFp8))
      for (bool certified : {true, false}) {
        const std::string text = refusal(gpu(arch, certified), order.order, 64, 4096, 2048);
        EXPECT_NE(text.find(why), std::string::npos) << text;
      }
  EXPECT_NE(refusal(gpu(80, false), Order::kHopperBf16, 1, 16, 16).find("it has rows of: ampere-bf16"),
            std::string::npos);
}

// More shared memory than an RTX has is asked for by no row of its table; with less there is no other tile, but an
// error.
TEST(ChooseTest, SharedMemoryIsKnownToChoose) {
  for (const Unit& unit : kUnits) {
    DeviceInfo small = gpu(unit.arch, false);
    small.shared_memory = 16 << 10;
    const std::string text = refusal(small, unit.orders.front(), 1, 4096, 2048);
    EXPECT_NE(text.find("of shared memory, the device has 16384"), std::string::npos) << text;
  }
}

TEST(ChooseTest, MeasuredShapesGoBeforePredictionOnTheDevicesTheyWereMeasuredOn) {
  EXPECT_EQ(choose(hopper(), Order::kHopperFast, 64, 4096, 2048).source, Source::kMeasured);
  EXPECT_EQ(choose(hopper(), Order::kHopperFast, 64, 4096, 2064).source, Source::kPredicted);
  EXPECT_EQ(choose(hopper(), Order::kHopperFast, 64, 4096, 2048, Dtype::kF32).source, Source::kPredicted);
  EXPECT_EQ(choose(hopper(114), Order::kHopperFast, 64, 4096, 2048).source, Source::kPredicted);
  EXPECT_EQ(choose(hopper(), Order::kHopperFast, 1 << 20, 4096, 2048).source, Source::kPredicted);
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
  small.shared_memory = 32768;
  EXPECT_NE(refusal(small, Order::kHopperFast, 1, 16, 16).find("32768"), std::string::npos);
  // What loads count in 32 bits are bytes.
  const int64_t half = int64_t{1} << 30;
  EXPECT_NE(refusal(hopper(), Order::kHopperBf16, 1, 16, half).find("K=1073741824 is 2147483648 bytes"),
            std::string::npos);
  EXPECT_NO_THROW(choose(hopper(), Order::kHopperFast, 1, 16, half));
}

// Quantizers have no rows to choose from; without this a Turing would answer with a device fault.
TEST(ChooseTest, AQuantizerRefusesAGpuWithoutKernels) {
  DeviceInfo turing = hopper();
  turing.arch = 75;
  turing.name = "a T4";
  Launch launch;
  launch.device = &turing;
  const float x[16] = {};
  uint8_t q[16];
  float scale[1];
  expect_error(
      [&] {
        quantize_per_token({x, Dtype::kF32, 1, 16}, {q, Dtype::kE4m3, 1, 16}, scale, nullptr, launch);
      },
      ErrorCode::kUnsupported, "a T4 (sm_75): this build has no kernels for sm_75");
}

TEST(ChooseTest, EveryMeasuredAndFixedRowNamesATile) {
  const auto tile = [](std::string_view name) -> const Tile* {
    for (const Tile& t : cuda::tiles())
      if (t.name == name) return &t;
    return nullptr;
  };
  for (const DeviceInfo& device : {hopper(132, 3352), hopper(132, 4917)}) {
    EXPECT_FALSE(cuda::measured(device).empty());
    for (const ShapeRule& rule : cuda::measured(device)) {
      int64_t above = 0;
      for (const Pick& pick : rule.picks) {
        if (!pick.max_m) break;
        EXPECT_GT(pick.max_m, above) << rule.n << "x" << rule.k;
        above = pick.max_m;
        ASSERT_TRUE(tile(pick.kernel)) << pick.kernel;
        EXPECT_EQ(tile(pick.kernel)->order, rule.order) << pick.kernel;
      }
      EXPECT_GT(above, 0) << rule.n << "x" << rule.k;
    }
  }
  EXPECT_TRUE(cuda::measured(hopper(131)).empty());
  for (std::string_view fixed : cuda::fixed_tiles()) EXPECT_TRUE(tile(fixed)) << fixed;
}

TEST(ChooseTest, RowsCanBeAskedForByName) {
  for (const Tile& tile : cuda::tiles()) {
    const Dtype out = tile.out == OutKind::kFloat ? Dtype::kF32 : Dtype::kF16;
    EXPECT_EQ(choose_named(gpu(tile.arch, false), tile.name, 1, 16, 16, out).tile, &tile);
    if (tile.arch != 90) {
      EXPECT_THROW(choose_named(hopper(), tile.name, 1, 16, 16, out), Error);
    }
  }
  EXPECT_THROW(choose_named(hopper(), "s1x1x1", 1, 16, 16), Error);
}

}  // namespace
}  // namespace samebits::testing
