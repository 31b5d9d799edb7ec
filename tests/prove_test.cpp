// The proof of a machine, without a GPU: rows that the CPU computes, some of which lie. Its file: certificate_test.cpp.
#include "samebits/prove.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "bits.h"
#include "cli/prove.h"
#include "core/prove.h"
#include "cpu/gemm.h"
#include "cpu/wide.h"
#include "files.h"
#include "lies.h"

namespace samebits::testing {
namespace {

using Json = nlohmann::json;

ProofRow cpu_row(const std::string& name, Order order, bool fp32, int threads = 0, bool weight_only = false) {
  return {name, order, fp32, [threads](const GemmProblem& p, const Launch&) { cpu::gemm(p, threads); }, weight_only};
}

/// Whether the CPU computes FP8 sums of the Order one by one, which takes ten times as long.
constexpr bool is_wide(Order order) { return spec(order).operands == Operands::kFp8 && !cpu::fits_lanes(spec(order)); }

/// Rows as the tables have them of an Order: of each output type, and of each weight.
std::vector<ProofRow> honest_rows(Order order, int threads = 0) {
  std::vector<ProofRow> rows = {cpu_row("all", order, false, threads)};
  if (!is_wide(order)) rows.push_back(cpu_row("one", order, false, 1));
  if (spec(order).scale_block == 0 && order != Order::kBlackwellFast) rows.push_back(cpu_row("fp32", order, true));
  if (spec(order).operands == Operands::kHalf) {
    rows.push_back(cpu_row("weight-only", order, false, threads, true));
    rows.push_back(cpu_row("weight-only fp32", order, true, threads, true));
  }
  return rows;
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

// The probes must return the constants that the CPU backend computes with, through every kind of row.
TEST(ProveTest, AUnitIsSeenThroughARow) {
  const Place place(cpu_device());
  for (const OrderSpec& order : kOrders)
    for (const ProofRow& row : honest_rows(order.order)) {
      const UnitBehaviour unit = probe_unit(place, row);
      EXPECT_EQ(unit.chunk(), order.chunk) << order.name;
      EXPECT_EQ(unit.align_bits, order.align_bits) << order.name;
      EXPECT_EQ(unit.result_bits, order.result_bits) << order.name;
      EXPECT_EQ(unit.promote_every, order.promote_every) << order.name;
      EXPECT_TRUE(unit.truncates && unit.accumulator_aligned) << order.name;
      for (const OrderSpec& other : kOrders) {
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
  const auto fma = [](const GemmProblem& p, const Launch&) {
    for (int64_t m = 0; m < p.m(); ++m)
      for (int64_t n = 0; n < p.n(); ++n) {
        float acc = 0;
        for (int64_t k = 0; k < p.k(); ++k) acc += load(p.a.dtype, p.a.at(m, k)) * load(p.b.dtype, p.b.at(n, k));
        store(Dtype::kF32, p.out.at(m, n), acc);
      }
  };
  for (Order order : {Order::kHopperFast, Order::kHopperBf16}) {
    const UnitBehaviour unit = probe_unit(place, {"fma", order, true, fma});
    EXPECT_EQ(unit.align_bits, -1);  // +2^16 and -2^16 are gone before the small term comes
    EXPECT_FALSE(unit.truncates);
    for (const OrderSpec& other : kOrders) EXPECT_FALSE(unit.is(other));
  }
}

/// Whether the CPU's proof of an Order takes minutes in this build, under a sanitizer, which sees the same code in that
/// of hopper-fast and of hopper-block128, or in the tests of the CPU backend.
constexpr bool is_slow_here([[maybe_unused]] Order order) {
#ifdef __SANITIZE_ADDRESS__
  return order != Order::kHopperFast && order != Order::kHopperBlock128;
#else
  return false;
#endif
}

/// An Order and the digest of one round. Those of hopper-fast and hopper-promoted are what an H100 gave, 2026-11-24;
/// the others are the CPU backend's: of Ada and the Blackwells no GPU has computed one yet.
class ProveOrderTest : public ::testing::TestWithParam<std::pair<Order, uint64_t>> {};

TEST_P(ProveOrderTest, HonestRowsAreProven) {
  const auto [order, digest] = GetParam();
  if (is_slow_here(order))
    GTEST_SKIP() << "minutes under a sanitizer; the tests of the CPU backend have the same code there";
  const ProveReport report = prove_rows(honest_rows(order));
  ASSERT_EQ(report.orders.size(), 1u);
  EXPECT_TRUE(report.same());
  EXPECT_GT(report.control, 1000u);
  const ProvedOrder& proved = report.orders.front();
  EXPECT_TRUE(proved.auditable);
  EXPECT_TRUE(proved.unit.is(spec(order)));
  for (const ProvedRow& row : proved.rows) EXPECT_GT(row.outputs, 1'000'000u) << row.name;
  EXPECT_GT(proved.cpu.outputs, 1'000'000u);
  EXPECT_EQ(proved.cpu.differing, 0u) << proved.cpu.first;
  EXPECT_EQ(proved.digest, digest) << fmt::format("{:016x}", proved.digest);
}

INSTANTIATE_TEST_SUITE_P(Orders, ProveOrderTest,
                         ::testing::Values(std::pair(Order::kHopperFast, 0xd100f62dedb3d37aull),
                                           std::pair(Order::kHopperPromoted, 0x787fcdd362ec3a8eull),
                                           std::pair(Order::kAdaFast, 0x157958afe358a36eull),
                                           std::pair(Order::kAdaPromoted, 0x51fbdd822a52e6a7ull),
                                           std::pair(Order::kHopperBf16, 0xc8b575c43bc2bd95ull),
                                           std::pair(Order::kHopperBlock128, 0x0ac77ccb546679b5ull),
                                           std::pair(Order::kBlackwellFast, 0x8f52c8828cc2edbeull),
                                           std::pair(Order::kSm120Fast, 0x17c14d998e768de1ull),
                                           std::pair(Order::kAmpereBf16, 0xf544d72c2384a4d6ull)),
                         [](const auto& info) {
                           std::string text(name(info.param.first));
                           std::replace(text.begin(), text.end(), '-', '_');
                           return text;
                         });

TEST(ProveTest, AnotherNumberOfThreadsHasTheSameDigestsAndCounts) {
  if (is_slow_here(Order::kHopperPromoted))
    GTEST_SKIP() << "minutes under a sanitizer, which ProveOrderTest runs under";
  const auto rows = [](int threads) { return honest_rows(Order::kHopperPromoted, threads); };
  EXPECT_EQ(prove_rows(rows(1)).orders, prove_rows(rows(2)).orders);
}

TEST(ProveTest, AWeightOfVllmsTestIsSweptAndHeldToTheCpu) {
  std::set<int64_t> batches;
  const auto another_unit_there = [&](const GemmProblem& p, const Launch&) {
    GemmProblem q = p;
    if (p.n() == 1024 && p.k() == 2048 && p.m() != 200)  // m = 200 is a case of the digest
      batches.insert(p.m()), q.order = Order::kAdaPromoted;
    cpu::gemm(q, 0);
  };
  const ProveReport report = prove_rows({{"a", Order::kHopperPromoted, true, another_unit_there}});
  EXPECT_EQ(batches, (std::set<int64_t>{1, 16, 17}));
  EXPECT_TRUE(report.same());
  const std::string& first = report.orders.front().cpu.first;
  EXPECT_TRUE(first.starts_with("M sweep, n=1024 k=2048: ")) << first;
}

// What runs on streams at once must take longer than a launch, and differ, or there is nothing to disturb.
TEST(ProveTest, ConcurrentStreamsGetTheLargestCases) {
  for (Order order : {Order::kHopperFast, Order::kHopperBlock128, Order::kHopperBf16}) {
    const std::vector<ProofCase> all = proof_cases(0, order);
    for (bool weight_only : {false, true}) {
      if (weight_only && spec(order).operands == Operands::kFp8) continue;
      const std::vector<const ProofCase*> largest = largest_cases(all, weight_only, 4);
      std::set<std::tuple<int64_t, int64_t, int64_t>> shapes;
      for (const ProofCase* c : largest) {
        EXPECT_EQ(c->weight_only(), weight_only);
        shapes.emplace(c->m, c->n, c->k);
      }
      EXPECT_EQ(shapes.size(), 4u) << name(order);
      const auto work = [](const ProofCase& c) { return c.m * c.n * c.k; };
      EXPECT_GT(work(*largest.front()), 400'000'000) << largest.front()->what;
      for (const ProofCase& c : all)
        EXPECT_TRUE(c.weight_only() != weight_only || shapes.contains({c.m, c.n, c.k}) ||
                    work(c) <= work(*largest.back()))
            << c.what;
    }
  }
}

struct Family {
  std::string name;
  Order order;
  bool fp32, weight_only;
  std::vector<Lies> lies;
};

class ProveLiesTest : public ::testing::TestWithParam<Family> {};

// Control: each lie is one that a broken kernel tells, and each must be found in the row that tells it, and only there.
TEST_P(ProveLiesTest, ControlRowsThatLieAreCaught) {
  const auto& [_, order, fp32, weight_only, families] = GetParam();
  if (is_slow_here(order)) GTEST_SKIP() << "minutes under a sanitizer; cpu_half_test.cpp has the same code there";
  std::vector<ProofRow> rows = {cpu_row("honest", order, fp32, 0, weight_only),
                                cpu_row("honest too", order, fp32, 1, weight_only)};
  Lies lies;
  for (const Lies& family : families) lies.insert(lies.end(), family.begin(), family.end());
  for (const auto& [what, lie] : lies)
    rows.push_back({what, order, fp32, [lie = lie](const GemmProblem& p, const Launch&) { lie(p); }, weight_only});
  const ProveReport report = prove_rows(rows);
  EXPECT_FALSE(report.same());
  EXPECT_TRUE(report.orders.front().auditable);
  EXPECT_EQ(row_of(report, "honest too").differing, 0u);
  for (const auto& [what, lie] : lies) {
    EXPECT_GT(row_of(report, what).differing, 0u) << what;
    EXPECT_NE(row_of(report, what).first, "") << what;
  }
  expect_error([&] { make_certificate(report, cpu_device(), 1, "2026-11-24"); }, ErrorCode::kBadInput, "do not agree");
}

INSTANTIATE_TEST_SUITE_P(
    Families, ProveLiesTest,
    ::testing::Values(Family{"fp8", Order::kHopperFast, false, false, {kBatchLies, kShapeLies, kFp8Lies}},
                      Family{"block", Order::kHopperBlock128, false, false, {kBatchLies, kShapeLies, kBlockLies}},
                      Family{"half", Order::kHopperBf16, true, false, {kBatchLies, kHalfLies}},
                      Family{"weight_only", Order::kHopperBf16, false, true, {kBatchLies, kWeightOnlyLies}}),
    [](const auto& info) { return info.param.name; });

// A row that takes the weight as it is and one that gets it widened are held to each other.
TEST(ProveTest, ControlAWeightOnlyRowIsHeldToTheOthers) {
  const Order order = Order::kHopperBf16;
  if (is_slow_here(order)) GTEST_SKIP() << "minutes under a sanitizer; cpu_half_test.cpp has the same code there";
  const auto lie = another_unit([](OrderSpec& unit) { unit.align_bits = 24; });
  const ProveReport report =
      prove_rows({cpu_row("wide", order, true),  // in bf16 one alignment bit shows in few outputs
                  {"weight-only", order, true, [lie](const GemmProblem& p, const Launch&) { lie(p); }, true}});
  EXPECT_TRUE(report.orders.front().auditable);
  EXPECT_GT(row_of(report, "weight-only").differing, 0u);
  EXPECT_NE(row_of(report, "weight-only").first.find("beside e4m3"), std::string::npos);
}

// A unit other than the Order's constants: rows agree among themselves and not with the CPU backend.
TEST(ProveTest, RowsOfAnotherUnitAreInvariantButNotAuditable) {
  for (const auto& [order, unit] :
       {std::pair(Order::kHopperFast, Order::kAdaFast), {Order::kHopperBf16, Order::kAmpereBf16}}) {
    if (is_slow_here(order)) continue;
    const auto as_that = [unit = unit](const GemmProblem& p, const Launch&) {
      GemmProblem q = p;
      q.order = unit;
      cpu::gemm(q, 0);
    };
    const ProveReport report = prove_rows({{"a", order, true, as_that}, {"b", order, true, as_that}});
    EXPECT_TRUE(report.same()) << name(order);
    EXPECT_FALSE(report.orders.front().auditable) << name(order);
    EXPECT_GT(report.orders.front().cpu.differing, 1000u) << name(order);
    EXPECT_TRUE(report.orders.front().unit.is(spec(unit))) << name(unit);
    EXPECT_FALSE(report.orders.front().unit.is(spec(order))) << name(order);
  }
}

// The same of block scales, whose unit has no second one here: rows that all leave out the bias.
TEST(ProveTest, RowsThatShareAMistakeAreInvariantButNotAuditable) {
  const auto no_bias = [](const GemmProblem& p, const Launch&) {
    GemmProblem q = p;
    q.bias = ConstView();
    cpu::gemm(q, 0);
  };
  const Order order = Order::kHopperBlock128;
  const ProveReport report = prove_rows({{"a", order, false, no_bias}, {"b", order, false, no_bias}});
  EXPECT_TRUE(report.same());
  const ProvedOrder& proved = report.orders.front();
  EXPECT_FALSE(proved.auditable);
  EXPECT_GT(proved.cpu.differing, 0u);
  EXPECT_LT(proved.cpu.differing, proved.cpu.outputs);
  EXPECT_NE(proved.cpu.first.find(", bias"), std::string::npos) << proved.cpu.first;
}

// What all rows do alike, the first among them, is no business of a row all the same.
TEST(ProveTest, ControlRowsThatAllWriteOutsideOfTheOutputAreCaught) {
  std::vector<ProofRow> rows;
  for (const auto& [what, lie] : kShapeLies)
    if (what.find(" past the last ") != std::string::npos)
      rows.push_back(
          {what, Order::kHopperBlock128, false, [lie = lie](const GemmProblem& p, const Launch&) { lie(p); }});
  ASSERT_EQ(rows.size(), 2u);
  const ProveReport report = prove_rows({rows[0], rows[0], rows[1], rows[1]});
  EXPECT_TRUE(report.orders.front().auditable);
  for (const ProvedRow& row : report.orders.front().rows) EXPECT_GT(row.differing, 0u) << row.name;
  const std::string& first = row_of(report, "a write past the last row").first;
  EXPECT_NE(first.find("m=1 n=16 k=16"), std::string::npos) << first;
  EXPECT_NE(first.find("the first at [1,0]"), std::string::npos) << first;
}

TEST(ProveTest, NothingToProveIsAnError) {
  expect_error([] { prove({}); }, ErrorCode::kNoDevice, "nothing to prove without a GPU");
  DeviceInfo turing;
  turing.arch = 75, turing.name = "a T4", turing.shared_memory = 64 << 10;
  ProveOptions options;
  options.device = &turing;
  expect_error([&] { prove(options); }, ErrorCode::kNoDevice, "a T4 (sm_75): sm_75 has neither an FP8 nor a BF16");
  if (cuda::tiles().empty()) return;
  DeviceInfo small;
  small.arch = cuda::tiles().front().arch, small.name = "a small one", small.shared_memory = 1 << 10;
  options.device = &small;
  expect_error([&] { prove(options); }, ErrorCode::kNoDevice, "bytes of shared memory, the device has 1024");
}

// Where it fails the row, the case and what was thrown are named; of an Error the code is kept.
TEST(ProveTest, ARowThatFailsIsNamedWithItsCase) {
  const auto failing = [](auto when, auto what) {
    const auto run = [=](const GemmProblem& p, const Launch&) {
      if (when(p)) throw what;
      cpu::gemm(p, 0);
    };
    return ProofRow{"faulty", Order::kHopperFast, true, run};
  };
  const Error fault(ErrorCode::kDeviceFault, "an illegal memory access");
  const auto expect_fault = [&](const std::vector<ProofRow>& rows, std::string_view text) {
    expect_error([&] { prove_rows(rows); }, ErrorCode::kDeviceFault, text);
  };
  const auto at = [](int64_t m, int64_t n) { return [=](const GemmProblem& p) { return p.m() == m && p.n() == n; }; };
  const ProofRow honest = cpu_row("honest", Order::kHopperFast, true);
  expect_fault({honest, failing(at(3, 48), fault)}, "hopper-fast faulty fp32, all bit patterns, m=3 n=48 k=144");
  expect_fault({honest, failing(at(257, 272), fault)},
               "hopper-fast faulty fp32, M sweep, n=272 k=528, m=257 from row 0: an illegal memory access");
  expect_fault({failing([](const GemmProblem& p) { return p.k() == 544; }, fault)},
               "hopper-fast faulty fp32, probes of the matrix unit: an illegal memory access");
  expect_error([&] { prove_rows({failing(at(3, 48), std::runtime_error("out of luck"))}); }, ErrorCode::kUnsupported,
               ": out of luck");
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
  report.orders.front().cpu.outputs = 90;
  if (!auditable) report.orders.front().cpu.differing = 3, report.orders.front().cpu.first = "needles, m=1: 3 of 16";
  if (differing) report.orders.front().rows[1].first = "M sweep, m=65 from row 3: 2 of 100 outputs, the first at [1,2]";
  return report;
}

TEST(ProveReportTest, VerdictsAndTables) {
  using cli::prove_json;
  using cli::prove_table;
  using cli::prove_verdict;
  DeviceInfo device;
  device.arch = 89, device.name = "an RTX";
  const cli::CertificateFile written{"c.json", ""}, removed{"", "c.json"};
  EXPECT_EQ(prove_verdict(some_report(true, 0), written), "0 of 200 outputs differ; certificate: c.json");
  EXPECT_EQ(prove_verdict(some_report(false, 0), written),
            "0 of 200 outputs differ; ada-fast is invariant, not auditable: 3 of 90 outputs are not the CPU backend's; "
            "certificate: c.json");
  EXPECT_EQ(prove_verdict(some_report(true, 2), {}), "2 of 200 outputs differ; no certificate");
  EXPECT_EQ(prove_verdict(some_report(true, 2), removed),
            "2 of 200 outputs differ; no certificate; the earlier certificate c.json was removed");
  ProveReport blind = some_report(true, 0);
  blind.control = 0;
  EXPECT_FALSE(blind.same());
  EXPECT_EQ(prove_verdict(blind, {}), "the control was not caught: nothing is proven");
  const std::string table = prove_table(some_report(true, 2), device, 1);
  for (const char* part : {"rows differ", "16 a step, 13 + 13 bits, truncates, one chain",
                           "ada-fast other: 2 of 100 outputs differ; M sweep, m=65 from row 3", "an RTX (sm_89), 1 s"})
    EXPECT_NE(table.find(part), std::string::npos) << table;
  EXPECT_EQ(table.find("not the Order's"), std::string::npos);
  ProveReport other = some_report(false, 0);
  other.orders.front().unit.align_bits = -1;
  for (const char* part :
       {"over 30 + 13 bits, truncates, one chain (not the Order's)", " 3 of 90  invariant",
        "ada-fast: 3 of 90 outputs of the first rows are not the CPU backend's; needles, m=1: 3 of 16"})
    EXPECT_NE(prove_table(other, device, 1).find(part), std::string::npos) << prove_table(other, device, 1);
  other.left_out = {"a64x64x128 needs 50000 bytes of shared memory, the device has 49152"};
  EXPECT_NE(prove_table(other, device, 1).find("not run: a64x64x128 needs 50000 bytes"), std::string::npos);
  EXPECT_EQ(Json::parse(prove_json(other, device, 4, 1.5, {}))["left_out"][0], other.left_out[0]);
  EXPECT_EQ(prove_verdict(other, {}),
            "0 of 200 outputs differ; ada-fast is invariant, not auditable: 3 of 90 outputs are not the CPU backend's; "
            "no certificate: 1 rows could not run");
  expect_error([&] { make_certificate(other, device, 4, "2026-11-25"); }, ErrorCode::kBadInput, "50000 bytes");
  const Json json = Json::parse(prove_json(some_report(false, 0), device, 4, 1.5, written));
  EXPECT_EQ(json["orders"][0]["verdict"], "invariant, not auditable");
  EXPECT_EQ(json["orders"][0]["cpu"], Json({{"outputs", 90}, {"differing", 3}, {"first", "needles, m=1: 3 of 16"}}));
  EXPECT_EQ(json["outputs"], 200);
  EXPECT_TRUE(json["passed"].get<bool>());
  EXPECT_EQ(json["certificate"], "c.json");
  EXPECT_TRUE(json["removed"].is_null());
  const Json failed = Json::parse(prove_json(some_report(true, 2), device, 4, 1.5, removed));
  EXPECT_TRUE(failed["certificate"].is_null());
  EXPECT_EQ(failed["removed"], "c.json");
  EXPECT_FALSE(failed["passed"].get<bool>());
  EXPECT_FALSE(Json::parse(prove_json(other, device, 4, 1.5, {}))["passed"].get<bool>());
}

}  // namespace
}  // namespace samebits::testing
