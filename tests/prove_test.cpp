// The proof of a machine, without a GPU: rows that the CPU computes, some of which lie; and the certificate's file.
#include "samebits/prove.h"

#include <xxhash.h>

#include <nlohmann/json.hpp>
#include <set>

#include "bits.h"
#include "cli.h"
#include "cli/prove.h"
#include "core/prove.h"
#include "cpu/gemm.h"
#include "cuda/tile.h"
#include "files.h"
#include "samebits/rules.h"

namespace samebits::testing {
namespace {

using Json = nlohmann::json;

ProofRow cpu_row(const std::string& name, Order order, bool fp32, int threads = 0) {
  return {name, order, fp32, [threads](const GemmProblem& p, const Launch&) { cpu::gemm(p, threads); }};
}

ProveReport prove_rows(std::vector<ProofRow> rows) {
  ProveOptions options;
  options.rounds = 1;
  options.rows = std::move(rows);
  return prove(options);
}

const ProvedRow& row_of(const ProveReport& report, const std::string& name) {
  for (const ProvedOrder& order : report.orders)
    for (const ProvedRow& row : order.rows)
      if (row.name == name) return row;
  throw std::out_of_range(name);
}

// The probes must return the constants that the CPU backend computes with, through fp32 and through bf16.
TEST(ProveTest, AUnitIsSeenThroughARow) {
  const Place place(cpu_device());
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    for (bool fp32 : {true, false}) {
      const UnitBehaviour unit = probe_unit(place, cpu_row("cpu", order.order, fp32));
      EXPECT_EQ(unit.chunk(), order.chunk) << order.name;
      EXPECT_EQ(unit.align_bits, order.align_bits) << order.name;
      EXPECT_EQ(unit.result_bits, order.result_bits) << order.name;
      EXPECT_EQ(unit.promote_every, order.promote_every) << order.name;
      EXPECT_TRUE(unit.truncates && unit.accumulator_aligned) << order.name;
      for (const OrderSpec& other : orders_of(Operands::kFp8)) {
        const auto constants = [](const OrderSpec& s) {
          return std::tuple(s.chunk, s.align_bits, s.result_bits, s.promote_every);
        };
        EXPECT_EQ(unit.is(other), constants(order) == constants(other)) << order.name << " as " << other.name;
      }
    }
}

// A unit that no Order describes: FP32 sums, one product after another, rounded to nearest.
TEST(ProveTest, AnotherUnitIsDescribedAsItIs) {
  const Place place(cpu_device());
  const ProofRow row{"fma", Order::kHopperFast, true, [](const GemmProblem& p, const Launch&) {
                       for (int64_t m = 0; m < p.m(); ++m)
                         for (int64_t n = 0; n < p.n(); ++n) {
                           float acc = 0;
                           for (int64_t k = 0; k < p.k(); ++k)
                             acc += decode(kFormatE4m3, *static_cast<const uint8_t*>(p.a.at(m, k))) *
                                    decode(kFormatE4m3, *static_cast<const uint8_t*>(p.b.at(n, k)));
                           store(Dtype::kF32, p.out.at(m, n), acc);
                         }
                     }};
  const UnitBehaviour unit = probe_unit(place, row);
  EXPECT_EQ(unit.align_bits, -1);  // +2^16 and -2^16 are gone before the small term comes
  EXPECT_FALSE(unit.truncates);
  for (const OrderSpec& order : orders_of(Operands::kFp8)) EXPECT_FALSE(unit.is(order));
}

TEST(ProveTest, HonestRowsAreProvenAndDigestsRepeat) {
  const auto rows = [](int threads) {
    return std::vector{cpu_row("one", Order::kHopperPromoted, false, 1),
                       cpu_row("all", Order::kHopperPromoted, false, threads),
                       cpu_row("fp32", Order::kHopperPromoted, true)};
  };
  const ProveReport report = prove_rows(rows(0));
  ASSERT_EQ(report.orders.size(), 1u);
  EXPECT_TRUE(report.same());
  EXPECT_GT(report.control, 1000u);
  const ProvedOrder& order = report.orders.front();
  EXPECT_TRUE(order.auditable);
  EXPECT_TRUE(order.unit.is(spec(Order::kHopperPromoted)));
  for (const ProvedRow& row : order.rows) EXPECT_GT(row.outputs, 5'000'000u) << row.name;
  EXPECT_EQ(order.digest, 0x787fcdd362ec3a8eu) << "what one round of `samebits prove` gave on an H100, 2026-11-24";
  const ProveReport again = prove_rows(rows(2));
  EXPECT_EQ(again.orders, report.orders) << "another thread count, the same digests and counts";
}

// Control: each lie is one that a broken kernel tells, and each must be found in the row that tells it, and only there.
TEST(ProveTest, ControlRowsThatLieAreCaught) {
  using Lie = std::function<void(const GemmProblem&)>;
  const std::vector<std::pair<std::string, Lie>> lies = {
      {"one bit of the last row of a large batch",
       [](const GemmProblem& p) {
         cpu::gemm(p, 0);
         if (p.m() > 128) *static_cast<uint8_t*>(p.out.at(p.m() - 1, p.n() - 1)) ^= 1;
       }},
      {"the last element of K left out where K is no multiple of 128",
       [](const GemmProblem& p) {
         GemmProblem q = p;
         if (p.k() > 128) q.a.cols = q.b.cols = p.k() / 128 * 128;
         cpu::gemm(q, 0);
       }},
      {"a write past the last column",
       [](const GemmProblem& p) {
         cpu::gemm(p, 0);
         if (p.out.row_stride > p.n()) std::memset(View(p.out).at(0, p.n()), 0, size_of(p.out.dtype));
       }},
      {"another Order from M = 65",
       [](const GemmProblem& p) {
         GemmProblem q = p;
         if (p.m() > 64) q.order = Order::kHopperPromoted;
         cpu::gemm(q, 0);
       }},
      {"dense rows where they are padded", [](const GemmProblem& p) {
         GemmProblem q = p;
         q.a.row_stride = p.k();
         cpu::gemm(q, 0);
       }}};
  std::vector<ProofRow> rows = {cpu_row("honest", Order::kHopperFast, false),
                                cpu_row("honest too", Order::kHopperFast, false, 1)};
  for (const auto& [what, lie] : lies)
    rows.push_back({what, Order::kHopperFast, false, [lie](const GemmProblem& p, const Launch&) { lie(p); }});
  const ProveReport report = prove_rows(rows);
  EXPECT_FALSE(report.same());
  EXPECT_TRUE(report.orders.front().auditable);
  EXPECT_EQ(row_of(report, "honest too").differing, 0u);
  for (const auto& [what, _] : lies) {
    EXPECT_GT(row_of(report, what).differing, 0u) << what;
    EXPECT_NE(row_of(report, what).first, "") << what;
  }
  expect_error([&] { make_certificate(report, cpu_device(), 1, "2026-11-24"); }, ErrorCode::kBadInput, "do not agree");
}

// A unit other than the Order's constants: rows agree among themselves and not with the CPU backend.
TEST(ProveTest, RowsOfAnotherUnitAreInvariantButNotAuditable) {
  const auto as_ada = [](const GemmProblem& p, const Launch&) {
    GemmProblem q = p;
    q.order = Order::kAdaFast;
    cpu::gemm(q, 0);
  };
  const ProveReport report =
      prove_rows({{"a", Order::kHopperFast, true, as_ada}, {"b", Order::kHopperFast, true, as_ada}});
  EXPECT_TRUE(report.same());
  EXPECT_FALSE(report.orders.front().auditable);
  EXPECT_TRUE(report.orders.front().unit.is(spec(Order::kAdaFast)));
  EXPECT_FALSE(report.orders.front().unit.is(spec(Order::kHopperFast)));
}

TEST(ProveTest, NothingToProveIsAnError) {
  expect_error([] { prove({}); }, ErrorCode::kNoDevice, "nothing to prove without a GPU");
  DeviceInfo ampere;
  ampere.arch = 80, ampere.name = "an A100", ampere.shared_memory = 163 << 10;
  ProveOptions options;
  options.device = &ampere;
  expect_error([&] { prove(options); }, ErrorCode::kNoDevice, "an A100 (sm_80): sm_80 has no FP8 matrix unit");
}

TEST(ProveTest, ACancelledProofProvesNothing) {
  std::atomic<bool> cancel = false;
  ProveOptions options;
  options.rows = {cpu_row("a", Order::kHopperFast, false)};
  options.cancel = &cancel;
  options.progress = [&](double fraction, const std::string&) { cancel = fraction > 0.1; };
  const ProveReport report = prove(options);
  EXPECT_TRUE(report.cancelled);
  EXPECT_FALSE(report.same());
}

/// A report with one Order: what no sound kernel can bring about, so that it is told as promised.
ProveReport some_report(bool auditable, uint64_t differing) {
  ProveReport report;
  report.control = 7;
  report.orders.push_back({Order::kAdaFast, auditable, 0xabc, {0xffff, 13, 13, true, true, 0}, {}});
  report.orders.front().rows = {{"first", false, 100, 0, ""}, {"other", false, 100, differing, ""}};
  if (differing) report.orders.front().rows[1].first = "M sweep, m=65 from row 3: 2 of 100 outputs, the first at [1,2]";
  return report;
}

TEST(ProveReportTest, VerdictsAndTables) {
  using cli::prove_json;
  using cli::prove_table;
  using cli::prove_verdict;
  DeviceInfo device;
  device.arch = 89, device.name = "an RTX";
  EXPECT_EQ(prove_verdict(some_report(true, 0), "c.json"), "0 of 200 outputs differ; certificate: c.json");
  EXPECT_EQ(prove_verdict(some_report(false, 0), "c.json"),
            "0 of 200 outputs differ; ada-fast is invariant, not auditable; certificate: c.json");
  EXPECT_EQ(prove_verdict(some_report(true, 2), ""), "2 of 200 outputs differ; no certificate");
  ProveReport blind = some_report(true, 0);
  blind.control = 0;
  EXPECT_FALSE(blind.same());
  EXPECT_EQ(prove_verdict(blind, ""), "the control was not caught: nothing is proven");
  const std::string table = prove_table(some_report(true, 2), device, 1);
  for (const char* part : {"rows differ", "16 a step, 13 + 13 bits, truncates, one chain",
                           "ada-fast other: 2 of 100 outputs differ; M sweep, m=65 from row 3", "an RTX (sm_89), 1 s"})
    EXPECT_NE(table.find(part), std::string::npos) << table;
  EXPECT_EQ(table.find("not the Order's"), std::string::npos);
  ProveReport other = some_report(false, 0);
  other.orders.front().unit.align_bits = -1;
  EXPECT_NE(prove_table(other, device, 1).find("over 30 + 13 bits, truncates, one chain (not the Order's)"),
            std::string::npos);
  const Json json = Json::parse(prove_json(some_report(false, 0), device, 4, 1.5, "c.json"));
  EXPECT_EQ(json["orders"][0]["verdict"], "invariant, not auditable");
  EXPECT_EQ(json["outputs"], 200);
  EXPECT_TRUE(json["passed"].get<bool>());
  EXPECT_TRUE(Json::parse(prove_json(some_report(true, 2), device, 4, 1.5, ""))["certificate"].is_null());
}

DeviceInfo ada(bool certified = false) {
  DeviceInfo d;
  d.arch = 89, d.sms = 128, d.shared_memory = 99 << 10, d.ordinal = 0, d.driver = 13010, d.certified = certified;
  d.name = "NVIDIA GeForce RTX 4090";
  return d;
}

/// The certificate that a sound Ada would get, without one at hand.
Certificate some_certificate() {
  ProveReport report;
  report.control = 1;
  for (Order order : {Order::kAdaFast, Order::kAdaPromoted}) {
    ProvedOrder proved{order, true, 0x0123456789abcdef, {0xffff, 13, 13, true, true, spec(order).promote_every}, {}};
    for (const Tile& tile : cuda::tiles())
      if (tile.arch == 89 && tile.order == order)
        proved.rows.push_back({std::string(tile.name), tile.out == OutKind::kFloat, 1000000, 0, ""});
    report.orders.push_back(proved);
  }
  return make_certificate(report, ada(), 4, "2026-11-24");
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

TEST_F(CertificateTest, WhatIsWrittenComesBack) {
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

TEST_F(CertificateTest, ChooseLeavesTheFixedRowOnlyWithOneForTheDevice) {
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

TEST_F(CertificateTest, AChangeOfLibraryContractOrRowsEndsIt) {
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

// Every member replaced by whatever JSON there is, with a digest that fits: taken or refused with an Error, nothing
// else.
TEST_F(CertificateTest, WhateverStandsInAMemberIsTakenOrRefused) {
  save_certificate(some_certificate(), path());
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
  const auto set = [](const char* key, Json value) { return [=](Json& json) { json["orders"][0][key] = value; }; };
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
