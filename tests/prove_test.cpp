// The proof of a machine, without a GPU: rows that the CPU computes, some of which lie. Its file: certificate_test.cpp.
#include "samebits/prove.h"

#include <nlohmann/json.hpp>

#include "bits.h"
#include "cli/prove.h"
#include "core/prove.h"
#include "cpu/gemm.h"
#include "files.h"

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

}  // namespace
}  // namespace samebits::testing
