// The wave model by hand, and what choose() loses against the best row of every cell in bench/results.
#include "core/cost.h"

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "bits.h"
#include "samebits/rules.h"

namespace samebits::testing {
namespace {

using Json = nlohmann::json;

DeviceInfo hopper(int sms, int gbps) {
  DeviceInfo d;
  d.arch = 90, d.sms = sms, d.gbps = gbps, d.shared_memory = 232448, d.ordinal = 0, d.name = "a Hopper";
  return d;
}

Tile tile(int m, int n, int cluster_m, int cluster_n, bool swapped) {
  Tile t = {};
  t.name = "t", t.arch = 90, t.m = m, t.n = n, t.k = 128, t.cluster_m = cluster_m, t.cluster_n = cluster_n;
  t.swapped = swapped, t.out = OutKind::kHalf;
  return t;
}

void expect_waves(const Tile& t, int sms, int64_t m, int64_t n, double whole, double exact) {
  const Waves w = waves(t, hopper(sms, 3352), m, n, 4096);
  EXPECT_EQ(w.whole, whole) << sms << " SMs, m=" << m << " n=" << n;
  EXPECT_DOUBLE_EQ(w.exact, exact) << sms << " SMs, m=" << m << " n=" << n;
}

TEST(CostTest, WavesCountTilesAndWholeClusters) {
  const Tile swapped = tile(64, 32, 1, 1, true);
  expect_waves(swapped, 132, 32, 64 * 132, 1, 1);
  expect_waves(swapped, 132, 33, 64 * 132, 2, 2);
  expect_waves(swapped, 132, 32, 64 * 132 + 16, 2, 133.0 / 132);
  expect_waves(swapped, 78, 32, 64 * 132, 2, 132.0 / 78);
  const Tile straight = tile(128, 256, 2, 1, false);
  expect_waves(straight, 132, 256, 256 * 66, 1, 1);
  expect_waves(straight, 132, 257, 256 * 66, 2, 2);
  expect_waves(straight, 133, 256, 256 * 66, 1, 1);  // one SM has no partner
  expect_waves(tile(64, 16, 1, 4, true), 2, 16, 64, 1, 1);
}

TEST(CostTest, HalfTheSMsWithHalfTheWeightAndBandwidthTakeTheSameTime) {
  for (const Tile& t : cuda::tiles()) {
    if (!t.cost.launch_us) continue;
    const double large = predicted_us(t, hopper(128, 4000), 16, 8192, 1024);
    const double small = predicted_us(t, hopper(64, 2000), 16, 4096, 1024);
    EXPECT_NEAR(small / large, 1, 0.05) << t.name;
  }
}

TEST(CostTest, OneCellByHand) {
  Tile t = tile(64, 64, 1, 1, true);
  EXPECT_TRUE(std::isinf(predicted_us(t, hopper(132, 4000), 64, 4096, 2000)));
  t.cost = {2, 1, 3, 1.5, 0.5, 0.25};
  // 64 tiles on 132 SMs: one wave, 64/132 busy; operands of 2000 * 4160 bytes, output of 64 * 4096 * 2.
  const double operands = 2000.0 * 4160, compute = 1 + 6 * (1 + 0.5 * 64 / 132 + 0.25 * operands / (50 << 20));
  const double stream = 1.5 * (operands + 64 * 4096 * 2) / 4e6;
  EXPECT_NEAR(predicted_us(t, hopper(132, 4000), 64, 4096, 2000),
              2 + std::pow(std::pow(compute, 4) + std::pow(stream, 4), 0.25), 1e-9);
}

/// Best row's time over the chosen row's: the least and the geometric mean over the cells of one results file.
struct Loss {
  double worst = 1, logs = 0;
  int cells = 0, skipped = 0;
  double geomean() const { return std::exp(logs / cells); }
};

template <class Choose>
Loss loss(const std::string& file, Choose&& choose_row) {
  std::map<std::tuple<Order, int64_t, int64_t, int64_t>, std::map<std::string, double>> cells;
  std::ifstream lines(std::string(SAMEBITS_RESULTS_DIR) + "/" + file);
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line);
    const std::string kernel = json["kernel"];
    if (kernel.starts_with("samebits:"))
      cells[{parse_order(json["order"].get<std::string>()), json["n"], json["k"], json["m"]}][kernel.substr(9)] =
          json["us"];
  }
  Loss all;
  for (const auto& [cell, rows] : cells) {
    const auto [order, n, k, m] = cell;
    const auto chosen = rows.find(choose_row(order, m, n, k));
    if (chosen == rows.end()) {  // a row that the sweep did not time there
      ++all.skipped;
      continue;
    }
    double best = chosen->second;
    for (const auto& [_, us] : rows) best = std::min(best, us);
    all.worst = std::min(all.worst, best / chosen->second);
    all.logs += std::log(best / chosen->second);
    ++all.cells;
  }
  return all;
}

// Sweeps of every row, and the bandwidth of their device in GB/s.
constexpr std::pair<const char*, int> kSweeps[] = {
    {"h100-rows.jsonl", 3352}, {"h100-half-rows.jsonl", 3352}, {"h100-block-rows.jsonl", 3352}};

TEST(CostTest, TheChosenRowIsWithinOnePercentOfTheBestInEveryMeasuredCell) {
  for (const auto& [file, gbps] : kSweeps) {
    const Loss l = loss(file, [gbps = gbps](Order order, int64_t m, int64_t n, int64_t k) {
      return std::string(choose(hopper(132, gbps), order, m, n, k).kernel);
    });
    EXPECT_GE(l.cells, 50) << file;
    EXPECT_GE(l.worst, 0.99) << file;
    EXPECT_EQ(l.skipped, 0) << file;
  }
}

// `make rules` prints what the same costs lose on shapes that they were not fitted to.
TEST(CostTest, ThePredictionAloneLosesFewPercent) {
  for (const auto& [file, gbps] : kSweeps) {
    const auto predicted = [gbps = gbps](double sign) {
      return [=](Order order, int64_t m, int64_t n, int64_t k) {
        const Tile* best = nullptr;
        double least = 0;
        for (const Tile& t : cuda::tiles()) {
          const double us = predicted_us(t, hopper(132, gbps), m, n, k);
          if (t.order != order || t.weight_only || std::isinf(us) || (best && sign * us >= least)) continue;
          best = &t;
          least = sign * us;
        }
        return std::string(best->name);
      };
    };
    EXPECT_GE(loss(file, predicted(1)).geomean(), 0.97) << file;
    EXPECT_LE(loss(file, predicted(-1)).geomean(), 0.7) << "control: the slowest rows are seen to be slow";
  }
}

}  // namespace
}  // namespace samebits::testing
