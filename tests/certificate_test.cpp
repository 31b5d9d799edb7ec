// Certificate files: what is written comes back, and whatever does not hold for this build or device is refused in
// words.
#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "bits.h"
#include "cli.h"
#include "cli/prove.h"
#include "cuda/tile.h"
#include "files.h"
#include "samebits/prove.h"
#include "samebits/rules.h"

namespace samebits::testing {
namespace {

using Json = nlohmann::json;

DeviceInfo ada(bool certified = false) {
  DeviceInfo d;
  d.arch = 89, d.sms = 128, d.shared_memory = 99 << 10, d.ordinal = 0, d.driver = 13010, d.certified = certified;
  d.name = "NVIDIA GeForce RTX 4090";
  return d;
}

const std::vector<Order> kAda = {Order::kAdaFast, Order::kAdaPromoted, Order::kAmpereBf16};

/// The report that a sound device would give, without one at hand.
ProveReport some_report(const DeviceInfo& device = ada(), const std::vector<Order>& orders = kAda) {
  ProveReport report;
  report.control = 1;
  for (Order order : orders) {
    ProvedOrder proved{order, true, 0x0123456789abcdef, {0xffff, 13, 13, true, true, spec(order).promote_every}, {}};
    for (const Tile& tile : cuda::tiles())
      if (tile.arch == device.arch && tile.order == order)
        proved.rows.push_back({std::string(tile.name), tile.out == OutKind::kFloat, 1000000, 0, ""});
    report.orders.push_back(proved);
  }
  return report;
}

/// Its certificate.
Certificate some_certificate(const DeviceInfo& device = ada(), const std::vector<Order>& orders = kAda) {
  return make_certificate(some_report(device, orders), device, 4, "2026-11-24");
}

class CertificateTest : public ::testing::Test {
 protected:
  std::string path() const { return (folder_ / "certificate.json").string(); }

  /// The file of some_certificate() with its JSON changed and a digest that fits.
  template <class Change>
  void expect_refused(Change&& change, std::string_view why) {
    save_certificate(some_certificate(), path());
    Json json = Json::parse(read_file(path()));
    change(json);
    json.erase("digest");
    const std::string text = json.dump();
    json["digest"] = fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
    write_file(path(), json.dump());
    expect_error([&] { load_certificate(path()); }, ErrorCode::kBadInput, why);
  }

  TempFolder folder_;
};

/// Of those who read a certificate of an Ada, which a build without its rows refuses.
class AdaCertificateTest : public CertificateTest {
 protected:
  void SetUp() override {
    if (std::ranges::count(cuda::archs(), ada().arch) == 0) GTEST_SKIP() << "this build has no kernels for sm_89";
  }
};

TEST_F(AdaCertificateTest, WhatIsWrittenComesBack) {
  save_certificate(some_certificate(), path());
  const Certificate c = load_certificate(path()), want = some_certificate();
  EXPECT_EQ(
      std::tie(c.device, c.arch, c.sms, c.driver, c.version, c.contract, c.date, c.rounds),
      std::tie(want.device, want.arch, want.sms, want.driver, want.version, want.contract, want.date, want.rounds));
  EXPECT_EQ(c.orders, want.orders);
  EXPECT_NE(c.digest, 0u);
  const std::string text = read_file(path());
  save_certificate(c, path());
  EXPECT_EQ(read_file(path()), text);
}

TEST_F(AdaCertificateTest, AProofThatFailsLeavesNoEarlierCertificateOfItsGpu) {
  const auto settle = [&](const ProveReport& report) {
    const cli::CertificateFile file = cli::settle_certificate(report, ada(), 4, path());
    return std::tuple(cli::exit_code_of(report), file.written, file.removed, std::filesystem::exists(path()));
  };
  ProveReport differing = some_report(), left_out = some_report(), blind = some_report();
  differing.orders[0].rows[1].differing = 2;
  left_out.left_out = {"a64x64x128 needs 50000 bytes of shared memory, the device has 49152"};
  blind.control = 0;
  EXPECT_EQ(settle(differing), std::tuple(cli::kDifferent, "", "", false));
  EXPECT_EQ(settle(left_out), std::tuple(cli::kBadRequest, "", "", false));
  EXPECT_EQ(folder_.list(), std::vector<std::string>());
  for (const auto& [report, code] :
       {std::pair(differing, cli::kDifferent), {left_out, cli::kBadRequest}, {blind, cli::kDifferent}}) {
    EXPECT_EQ(settle(some_report()), std::tuple(cli::kSame, path(), "", true));
    EXPECT_EQ(load_certificate(path()).orders, some_report().orders);
    EXPECT_EQ(settle(report), std::tuple(code, "", path(), false));
  }
}

TEST_F(AdaCertificateTest, AProofThatFailsLeavesEveryOtherFile) {
  ProveReport failed = some_report();
  failed.control = 0;
  DeviceInfo other = ada();
  other.name = "NVIDIA L40S";
  save_certificate(some_certificate(other), path());
  const std::string of_another_gpu = read_file(path());
  save_certificate(some_certificate(), path());
  const std::string damaged = read_file(path()).replace(read_file(path()).find("13010"), 5, "13011");
  for (const std::string& text :
       {of_another_gpu, damaged, std::string("my notes\n"), std::string("{}"), std::string()}) {
    write_file(path(), text);
    EXPECT_EQ(cli::settle_certificate(failed, ada(), 4, path()).removed, "") << text;
    EXPECT_EQ(read_file(path()), text);
  }
  EXPECT_EQ(cli::settle_certificate(failed, ada(), 4, folder_.path().string()).removed, "");
  EXPECT_TRUE(std::filesystem::is_directory(folder_.path()));
}

// How many outputs are the CPU backend's is in a certificate if it was counted: those of before this count still hold.
TEST_F(AdaCertificateTest, TheCountsOfTheCpuAreOptionalAndMustAgreeWithTheVerdict) {
  Certificate c = some_certificate();
  save_certificate(c, path());
  EXPECT_EQ(read_file(path()).find("\"cpu\""), std::string::npos);
  EXPECT_EQ(load_certificate(path()).orders[0].cpu, (ProvedRow{"cpu", false, 0, 0, ""}));
  c.orders[0].cpu.outputs = 7;
  c.orders[1].auditable = false, c.orders[1].cpu = {"cpu", false, 9, 2, "needles, m=1 n=16 k=16"};
  save_certificate(c, path());
  EXPECT_EQ(load_certificate(path()).orders, c.orders);
  const auto with_cpu = [](const Json& cpu) { return [=](Json& json) { json["orders"][0]["cpu"] = cpu; }; };
  expect_refused(with_cpu({{"outputs", 9}, {"differing", 2}, {"first", "m=1"}}),
                 "auditable is true, and 2 outputs are not the CPU backend's");
  expect_refused(with_cpu({{"outputs", 9}, {"differing", 0}}), "first is missing");
  expect_refused(with_cpu(3), "outputs is missing");
}

TEST_F(AdaCertificateTest, ChooseLeavesTheFixedRowOnlyWithOneForTheDevice) {
  save_certificate(some_certificate(), path());
  const Certificate c = load_certificate(path());
  const auto rows = [](const DeviceInfo& device) {
    std::set<std::string_view> names;
    for (int64_t m : {1, 64, 8192}) names.insert(choose(device, Order::kAdaFast, m, 4096, 2048).kernel);
    return names;
  };
  EXPECT_EQ(rows(ada()), (std::set<std::string_view>{"a64x64x128"}));
  EXPECT_GT(rows(with_certificate({ada()}, c).front()).size(), 1u);
  DeviceInfo other = ada();
  other.name = "NVIDIA L40S";
  EXPECT_EQ(rows(with_certificate({other}, c).front()).size(), 1u);
}

TEST_F(CertificateTest, AForeignDeviceOrDriverIsRefusedWithBothSides) {
  const Certificate c = some_certificate();
  check_certificate(c, ada());
  DeviceInfo newer = ada();
  newer.driver = 13090;
  check_certificate(c, newer);  // the same major version
  newer.driver = 14000;
  expect_error(
      [&] { check_certificate(c, newer); }, ErrorCode::kBadInput,
      "a certificate of NVIDIA GeForce RTX 4090 (sm_89, 128 SMs, driver for CUDA 13), this is NVIDIA GeForce RTX "
      "4090 (sm_89, 128 SMs, driver for CUDA 14)");
  DeviceInfo smaller = ada();
  smaller.sms = 114;
  expect_error([&] { check_certificate(c, smaller); }, ErrorCode::kBadInput, "114 SMs");
  expect_error([&] { check_certificate(c, cpu_device()); }, ErrorCode::kBadInput, "this is the CPU");
  EXPECT_FALSE(with_certificate({newer}, c).front().certified);
}

TEST_F(CertificateTest, EveryDamagedByteIsNoticed) {
  save_certificate(some_certificate(), path());
  const std::string good = read_file(path());
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    write_file(path(), bad);
    const bool taken = error_of([&] { load_certificate(path()); }) == "no error";
    EXPECT_TRUE(!taken || std::isspace(good[i])) << i << ": " << bad.substr(i, 20);
  }
  write_file(path(), good.substr(0, good.size() / 2));
  expect_error([&] { load_certificate(path()); }, ErrorCode::kBadInput, "not JSON");
  expect_error([&] { load_certificate(folder_ / "none.json"); }, ErrorCode::kIo, "none.json");
}

TEST_F(AdaCertificateTest, AChangeOfLibraryContractOrRowsEndsIt) {
  expect_refused([](Json& json) { json["library"] = "9.9.9"; },
                 fmt::format("of the rows of samebits \"9.9.9\", this is {}", version()));
  expect_refused([](Json& json) { json["contract"] = kContractVersion + 1; },
                 "of version 2 of the contract, this is 1");
  expect_refused([](Json& json) { json["format"] = "samebits-rules"; }, "not a certificate file of `samebits prove`");
  expect_refused([](Json& json) { json["version"] = 2; }, "certificate file version 2; this samebits reads 1");
  expect_refused([](Json& json) { json["orders"][0]["rows"].erase(1); }, "is not proven: run `samebits prove` again");
  expect_refused([](Json& json) { json["orders"].erase(1); }, "of ada-promoted is not proven");
  expect_refused([](Json& json) { json["orders"][0]["rows"][0]["row"] = "a1x1x1"; }, "is not proven");
  expect_refused(
      [](Json& json) {
        json["orders"][0]["rows"].push_back({{"row", "x"}, {"fp32", false}, {"outputs", 1}});
      },
      "there is no row \"ada-fast x\" in this build");
  expect_refused([](Json& json) { json["orders"][0]["rows"].push_back(json["orders"][0]["rows"][0]); },
                 "appears twice");
  expect_refused([](Json& json) { json["orders"].push_back(json["orders"][0]); }, "ada-fast appears twice");
  expect_refused([](Json& json) { json["arch"] = 75; }, "of a GPU of sm_75: this build has no kernels for it");
  expect_refused([](Json& json) { json["arch"] = 90; }, "is not proven");
}

// Rows of 16-bit operands, weight-only and block-scaled ones are rows like any other.
TEST_F(CertificateTest, AHopperIsCertifiedWithAllItsRows) {
  DeviceInfo hopper;
  hopper.arch = 90, hopper.sms = 132, hopper.driver = 13010, hopper.name = "NVIDIA H100 80GB HBM3";
  const std::vector<Order> fp8 = {Order::kHopperFast, Order::kHopperPromoted};
  std::vector<Order> all = fp8;
  all.insert(all.end(), {Order::kHopperBf16, Order::kHopperBlock128});
  const auto saved = [&](const Certificate& c) {
    save_certificate(c, path());
    return path();
  };
  Certificate c = some_certificate(hopper, all);
  EXPECT_EQ(load_certificate(saved(c)).orders, c.orders);
  expect_error([&] { load_certificate(saved(some_certificate(hopper, fp8))); }, ErrorCode::kBadInput,
               "is not proven: run `samebits prove` again");
  std::erase_if(c.orders[2].rows, [](const ProvedRow& row) { return row.name == "w64x8"; });
  expect_error([&] { load_certificate(saved(c)); }, ErrorCode::kBadInput, "row w64x8 of hopper-bf16 is not proven");
}

// What device.cpp calls proven rests on these files: a new row, contract or version is red here until both Hoppers have
// run it. Two GPUs of one architecture have the same bits, units and rows.
TEST_F(CertificateTest, TheHoppersOfThisProjectAreProvenRowForRow) {
  const std::filesystem::path folder = SAMEBITS_CERTIFICATES_DIR;
  const Certificate h100 = load_certificate(folder / "h100.json"), h200 = load_certificate(folder / "h200.json");
  EXPECT_EQ(h100.device, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(h200.device, "NVIDIA H200");
  EXPECT_EQ(h100.arch, 90);
  EXPECT_EQ(h100.orders, h200.orders);
  for (const ProvedOrder& order : h100.orders) EXPECT_TRUE(order.auditable) << name(order.order);
}

// Every member replaced by whatever JSON there is, with a digest that fits: taken or refused with an Error, nothing
// else.
TEST_F(CertificateTest, WhateverStandsInAMemberIsTakenOrRefused) {
  Certificate certificate = some_certificate();
  certificate.orders[0].cpu.outputs = 7;
  save_certificate(certificate, path());
  const Json good = Json::parse(read_file(path()));
  const std::vector<Json> values = {nullptr,
                                    true,
                                    0,
                                    -1,
                                    1.5,
                                    18446744073709551615ull,
                                    "",
                                    "0123456789abcdef",
                                    Json::array(),
                                    Json::object(),
                                    Json::array({Json::array({1})})};
  size_t refused = 0, files = 0;
  const Json members = good.flatten();
  for (const auto& [pointer, _] : members.items())
    for (Json::json_pointer at(pointer); !at.empty(); at.pop_back())
      for (const Json& value : values) {
        Json json = good;
        json[at] = value;
        json.erase("digest");
        const std::string text = json.dump();
        json["digest"] = fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
        write_file(path(), json.dump());
        ++files;
        try {
          load_certificate(path());
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), ErrorCode::kBadInput);
          ++refused;
        }
      }
  EXPECT_GT(files, 1000u);
  EXPECT_GT(refused, files / 2);
}

// The executable of this build, which may have no kernels: it says so, or that the file is of another GPU.
TEST_F(CertificateTest, TheCommandLineRefusesWhatDoesNotHold) {
  const auto refused = [](const CliRun& run, std::string_view why) {
    EXPECT_EQ(run.code, 2) << run.out;
    EXPECT_NE(run.err.find(why), std::string::npos) << run.err;
  };
  save_certificate(some_certificate(), path());
  const bool built = std::string(SAMEBITS_BUILT_ARCHS).find("89") != std::string::npos;
  if (!built) refused(run_cli({"prove", "--check", path()}), "of a GPU of sm_89: this build has no kernels for it");
  if (built && cuda_devices().empty()) {
    const CliRun run = run_cli({"prove", "--check", path()});
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(run.last_line(), "undamaged and of this version; there is no GPU here to hold it to");
  }
  if (built && !cuda_devices().empty() && cuda_devices().front().arch != 89)
    refused(run_cli({"prove", "--check", path()}), "a certificate of NVIDIA GeForce RTX 4090");
  write_file(path(), read_file(path()).replace(read_file(path()).find("13010"), 5, "13011"));
  refused(run_cli({"prove", "--check", path()}), "damaged: its content has the digest");
  refused(run_cli({"info", "--certificate", path()}), "damaged");
  refused(run_cli({"--certificate", path(), "verify", "--shapes", "qwen3-1.7b"}), "damaged");
  refused(run_cli({"prove", "--rounds", "0"}), "--rounds");
  if (cuda_devices().empty()) refused(run_cli({"prove", "--out", path()}), "nothing to prove without a GPU");
}

TEST_F(CertificateTest, MembersAreChecked) {
  const auto set = [](const char* key, const Json& value) {
    return [=](Json& json) { json["orders"][0][key] = value; };
  };
  expect_refused(set("auditable", 1), "auditable is \"1\", not true or false");
  expect_refused(set("digest", "12"), "not 16 hexadecimal digits");
  expect_refused(set("digest", "0123456789ABCDEF"), "not 16 hexadecimal digits");
  expect_refused(set("order", "ada-quick"), "ada-quick");
  expect_refused(set("rows", 3), "rows is \"3\", not an array");
  expect_refused(set("unit", 3), "step is missing");
  expect_refused([](Json& json) { json["rounds"] = 0; }, "rounds is \"0\", not a number of 1 to");
  expect_refused([](Json& json) { json["sms"] = 18446744073709551615ull; }, "sms is");
  expect_refused([](Json& json) { json.erase("driver"); }, "driver is missing");
}

}  // namespace
}  // namespace samebits::testing
