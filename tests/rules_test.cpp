// Rules files: what is written comes back, and whatever does not hold for this build or device is refused in words.
#include "samebits/rules.h"

#include <xxhash.h>

#include <nlohmann/json.hpp>

#include "cuda/tile.h"
#include "files.h"

namespace samebits::testing {
namespace {

using Json = nlohmann::json;

DeviceInfo hopper(const std::string& name = "NVIDIA H20", int sms = 78) {
  DeviceInfo d;
  d.arch = 90, d.sms = sms, d.gbps = 4022, d.shared_memory = 232448, d.ordinal = 0, d.name = name;
  return d;
}

/// Rules that name rows which nothing else would choose.
RuleSet some_rules() {
  RuleSet rules;
  rules.device = "NVIDIA H20", rules.arch = 90, rules.sms = 78, rules.version = version(), rules.driver = 13000;
  rules.date = "2026-11-24";
  rules.shapes.push_back({Order::kHopperFast, 4096, 2048, 8, {{{16, "c128x256x128"}, {100, "s64x32x128"}}}});
  rules.shapes.push_back({Order::kHopperPromoted, 4096, 2048, 1, {{{64, "pc128x128x128"}}}});
  return rules;
}

class RulesTest : public ::testing::Test {
 protected:
  std::string path() const { return (folder_ / "rules.json").string(); }

  /// The file of some_rules() with its JSON changed and, unless told not to, a digest that fits.
  template <class Change>
  std::string changed(Change&& change, bool with_digest = true) {
    save_rules(some_rules(), path());
    Json json = Json::parse(read_file(path()));
    change(json);
    if (with_digest) {
      json.erase("digest");
      const std::string text = json.dump();
      json["digest"] = fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
    }
    write_file(path(), json.dump());
    return path();
  }

  template <class Change>
  void expect_refused(Change&& change, std::string_view why) {
    changed(change);
    expect_error([&] { load_rules(path()); }, ErrorCode::kBadInput, why);
  }

  TempFolder folder_;
};

TEST_F(RulesTest, WhatIsWrittenComesBack) {
  save_rules(some_rules(), path());
  const RuleSet rules = load_rules(path());
  const RuleSet want = some_rules();
  EXPECT_EQ(rules.device, want.device);
  EXPECT_EQ(rules.arch, want.arch);
  EXPECT_EQ(rules.sms, want.sms);
  EXPECT_EQ(rules.version, want.version);
  EXPECT_EQ(rules.driver, want.driver);
  EXPECT_EQ(rules.date, want.date);
  EXPECT_NE(rules.digest, 0u);
  ASSERT_EQ(rules.shapes.size(), want.shapes.size());
  for (size_t i = 0; i < want.shapes.size(); ++i) {
    const ShapeRule &got = rules.shapes[i], &expected = want.shapes[i];
    EXPECT_EQ(std::tie(got.order, got.n, got.k, got.min_m),
              std::tie(expected.order, expected.n, expected.k, expected.min_m));
    for (size_t p = 0; p < kMaxPicks; ++p) {
      EXPECT_EQ(got.picks[p].max_m, expected.picks[p].max_m);
      EXPECT_EQ(got.picks[p].kernel, expected.picks[p].kernel);
    }
  }
  const std::string text = read_file(path());
  save_rules(rules, path());
  EXPECT_EQ(read_file(path()), text);
}

TEST_F(RulesTest, ChooseAsksThemFirstWithinWhatWasMeasured) {
  const RuleSet rules = some_rules();
  const auto chosen = [&](int64_t m, int64_t n = 4096, Order order = Order::kHopperFast, Dtype out = Dtype::kF16) {
    const Plan plan = choose(hopper(), order, m, n, 2048, out, &rules);
    EXPECT_EQ(plan.tile->order, order);
    return plan.source == Source::kRules ? std::string(plan.kernel) : "others";
  };
  EXPECT_EQ(chosen(7), "others");
  EXPECT_EQ(chosen(8), "c128x256x128");
  EXPECT_EQ(chosen(16), "c128x256x128");
  EXPECT_EQ(chosen(17), "s64x32x128");
  EXPECT_EQ(chosen(100), "s64x32x128");
  EXPECT_EQ(chosen(101), "others");
  EXPECT_EQ(chosen(16, 4112), "others");
  EXPECT_EQ(chosen(1, 4096, Order::kHopperPromoted), "pc128x128x128");
  EXPECT_EQ(chosen(16, 4096, Order::kHopperFast, Dtype::kF32), "others") << "the row writes no fp32";
}

TEST_F(RulesTest, OtherDevicesAndUncertifiedOnesDoNotSeeThem) {
  const RuleSet rules = some_rules();
  for (const DeviceInfo& device : {hopper("NVIDIA H20", 132), hopper("NVIDIA H100 PCIe"), hopper("NVIDIA H100", 114)}) {
    EXPECT_NE(choose(device, Order::kHopperFast, 8, 4096, 2048, Dtype::kBf16, &rules).source, Source::kRules);
    expect_error(
        [&] { check_rules(rules, device); }, ErrorCode::kBadInput,
        fmt::format("measured on NVIDIA H20 (sm_90, 78 SMs), this is {} (sm_90, {} SMs)", device.name, device.sms));
  }
  expect_error([&] { check_rules(rules, cpu_device()); }, ErrorCode::kBadInput, "this is the CPU");
  check_rules(rules, hopper());
  DeviceInfo unproven = hopper();
  unproven.certified = false;
  EXPECT_EQ(choose(unproven, Order::kHopperFast, 8, 4096, 2048, Dtype::kBf16, &rules).source, Source::kFixed);
  EXPECT_EQ(choose(cpu_device(), Order::kHopperFast, 8, 4096, 2048, Dtype::kBf16, &rules).kernel, "cpu");
}

TEST_F(RulesTest, EveryDamagedByteIsNoticed) {
  save_rules(some_rules(), path());
  const std::string good = read_file(path());
  size_t refused = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    write_file(path(), bad);
    const bool taken = error_of([&] { load_rules(path()); }) == "no error";
    EXPECT_TRUE(!taken || std::isspace(good[i])) << i << ": " << bad.substr(i, 20);
    refused += !taken;
  }
  EXPECT_GT(refused, good.size() * 9 / 10);
  write_file(path(), good.substr(0, good.size() / 2));
  expect_error([&] { load_rules(path()); }, ErrorCode::kBadInput, "not JSON");
  changed([](Json& json) { json["rules"][0]["n"] = 8192; }, false);
  expect_error([&] { load_rules(path()); }, ErrorCode::kBadInput, "damaged: its content has the digest ");
  expect_error([&] { load_rules(folder_ / "none.json"); }, ErrorCode::kIo, "none.json");
}

TEST_F(RulesTest, ForeignFilesAreRefusedWithTheReason) {
  expect_refused([](Json& json) { json["format"] = "another"; }, "not a rules file of `samebits tune`");
  expect_refused(
      [](Json& json) {
        json = Json::array();
        json.push_back(1);
        json = Json{{"a", json}};
      },
      "format is missing");
  expect_refused([](Json& json) { json["version"] = 2; }, "rules file version 2; this samebits reads 1");
  expect_refused([](Json& json) { json["library"] = "9.9.9"; },
                 fmt::format("measured with the rows of samebits \"9.9.9\", this is {}", version()));
}

TEST_F(RulesTest, ARuleNeverCrossesOrdersNorNamesAnUnknownRow) {
  const auto row = [](const char* kernel) { return [=](Json& json) { json["rules"][0]["rows"][0][1] = kernel; }; };
  expect_refused(row("s1x1x1"), "there is no row called \"s1x1x1\"");
  expect_refused(row("pc128x128x128"), "row pc128x128x128 computes hopper-promoted, the rule is for hopper-fast");
  expect_refused(row("f64x32x128"), "row f64x32x128 is built for sm_90 and writes fp32");
  expect_refused([](Json& json) { json["rules"][0]["order"] = "hopper-promoted"; }, "computes hopper-fast");
  expect_refused([](Json& json) { json["rules"][0]["order"] = "hopper-quick"; }, "hopper-quick");
  expect_refused([](Json& json) { json["arch"] = 100; }, "rules for sm_100");
}

TEST_F(RulesTest, NumbersAreChecked) {
  const auto set = [](const char* key, const Json& value) {
    return [=](Json& json) { json["rules"][0][key] = value; };
  };
  expect_refused(set("n", 0), "n is \"0\", not a number of 1 to 2147483647");
  expect_refused(set("k", 1.5), "k is \"1.5\"");
  expect_refused(set("min_m", -1), "min_m");
  expect_refused(set("n", int64_t{1} << 31), "n is");
  expect_refused(set("rows", Json::array()), "0 rows");
  expect_refused(set("rows", Json(std::vector<Json>(kMaxPicks + 1, {1, "s64x32x128"}))), "33 rows");
  expect_refused(set("rows", {{16, "s64x32x128"}, {16, "s128x64x128"}}), "m of a row is \"16\", not a number of 17");
  expect_refused(set("rows", {{4, "s64x32x128"}}), "not a number of 8");
  expect_refused(set("rows", {"s64x32x128"}), "is not [m, row]");
  expect_refused([](Json& json) { json["rules"].push_back(json["rules"][0]); }, "two rules for hopper-fast 4096x2048");
  expect_refused([](Json& json) { json.erase("sms"); }, "sms is missing");
}

}  // namespace
}  // namespace samebits::testing
