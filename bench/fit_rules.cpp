// Writes src/cuda/sm90_rules.def from JSON lines of `samebits bench`, and says what its choices lose. `make rules` runs
// it: samebits_fit_rules OUT.def RESULTS.jsonl...
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "core/cost.h"
#include "core/picks.h"
#include "fit_cost.h"
#include "io/file.h"
#include "io/json.h"

namespace samebits::bench {
namespace {

// What the JSON lines do not say of their device: SMs and GB/s (clock and bus width, as `samebits info --json` has it).
const std::vector<DeviceInfo>& known_devices() {
  static const std::vector<DeviceInfo> devices = [] {
    std::vector<DeviceInfo> all;
    for (const auto& [name, sms, gbps] :
         {std::tuple("NVIDIA H100 80GB HBM3", 132, 3352), std::tuple("NVIDIA H200", 132, 4917)}) {
      DeviceInfo device;
      device.arch = 90;
      device.sms = sms;
      device.shared_memory = 232448;
      device.name = name;
      device.gbps = gbps;
      all.push_back(device);
    }
    return all;
  }();
  return devices;
}

using Key = std::tuple<Order, int64_t, int64_t, bool>;  // order, n, k, weight-only
using Results = std::map<Key, std::vector<ShapeTimes>>;

/// Rows that carry the costs under test: predicted_us() and make_rule() see these, not the table's.
std::vector<Tile> rows_of_the_table() {
  std::vector<Tile> rows;
  for (const Tile& tile : cuda::tiles())
    if (tile.arch == 90) rows.push_back(tile);  // the results are of H100 and H200
  return rows;
}

const DeviceInfo& device_called(const std::string& name) {
  for (const DeviceInfo& device : known_devices())
    if (device.name == name) return device;
  throw Error(ErrorCode::kBadInput, fmt::format("device {} is not in known_devices()", name));
}

void read_results(const std::string& path, const std::vector<Tile>& rows, Results& results) {
  constexpr std::string_view kPrefix = "samebits:";
  std::ifstream file(path);
  if (!file) throw Error(ErrorCode::kIo, path + ": cannot be read");
  for (std::string line; std::getline(file, line);) {
    const Json json = parse_json(line, path, 3);
    const std::string kernel = json.at("kernel");
    if (!kernel.starts_with(kPrefix)) continue;
    const auto row = std::find_if(rows.begin(), rows.end(),
                                  [&](const Tile& tile) { return tile.name == kernel.substr(kPrefix.size()); });
    if (row == rows.end()) continue;  // a row that the table no longer has
    const DeviceInfo& device = device_called(json.at("device"));
    auto& shapes = results[{row->order, json.at("n"), json.at("k"), row->weight_only}];
    auto times = std::find_if(shapes.begin(), shapes.end(), [&](const ShapeTimes& t) { return t.device == &device; });
    if (times == shapes.end()) times = shapes.insert(shapes.end(), {&device, {}});
    times->us[json.at("m")][&*row] = json.at("us");
  }
}

double best_of(const std::map<const Tile*, double>& us) {
  double best = us.begin()->second;
  for (const auto& [_, t] : us) best = std::min(best, t);
  return best;
}

/// Fits every row, leaving out one weight shape unless n is 0. A row counts most where it is nearly the best: its time
/// matters nowhere else.
void fit_costs(const Results& results, int64_t without_n, int64_t without_k, std::vector<Tile>& rows) {
  constexpr int kPower = 6;
  std::map<const Tile*, std::vector<Sample>> samples;
  for (const auto& [key, shapes] : results) {
    const auto [order, n, k, weight_only] = key;
    if (n == without_n && k == without_k) continue;
    for (const ShapeTimes& t : shapes)
      for (const auto& [m, us] : t.us)
        for (const auto& [row, time] : us)
          samples[row].push_back({t.device, m, n, k, time, std::pow(best_of(us) / time, kPower)});
  }
  for (Tile& row : rows) row.cost = samples.contains(&row) ? fit_cost(row, samples[&row]) : Cost();
}

/// Best row's time over the chosen row's, for each cell of one device and Order.
struct Score {
  std::vector<double> ratios;
  std::string worst_cell;

  double worst() const { return *std::min_element(ratios.begin(), ratios.end()); }
  void add(double ratio, const std::string& cell) {
    if (ratios.empty() || ratio < worst()) worst_cell = cell;
    ratios.push_back(ratio);
  }
  std::string text() const {
    double logs = 0;
    for (double r : ratios) logs += std::log(r);
    const auto below = std::count_if(ratios.begin(), ratios.end(), [](double r) { return r < 0.99; });
    return fmt::format("geomean {:.4f}, worst {:.3f} ({}), {} of {} below 0.99",
                       std::exp(logs / static_cast<double>(ratios.size())), worst(), worst_cell, below, ratios.size());
  }
};

using Scores = std::map<std::pair<std::string, Order>, Score>;

/// `choice` names the row for each measured cell of a shape.
template <class Choice>
void score(const Key& key, const std::vector<ShapeTimes>& shapes, Scores& scores, Choice&& choice) {
  const auto [order, n, k, weight_only] = key;
  for (const ShapeTimes& t : shapes)
    for (const auto& [m, us] : t.us)
      scores[{t.device->name, order}].add(best_of(us) / us.at(choice(t, m, us)), fmt::format("{}x{} m={}", n, k, m));
}

void score_prediction(const Key& key, const std::vector<ShapeTimes>& shapes, Scores& scores) {
  score(key, shapes, scores, [&](const ShapeTimes& t, int64_t m, const auto& us) {
    const auto predicted = [&](const auto& pair) {
      return predicted_us(*pair.first, *t.device, m, std::get<1>(key), std::get<2>(key));
    };
    return std::min_element(us.begin(), us.end(),
                            [&](const auto& x, const auto& y) { return predicted(x) < predicted(y); })
        ->first;
  });
}

void print(const char* what, const Scores& scores) {
  for (const auto& [key, s] : scores) fmt::print("{:9}  {}  {:15}  {}\n", what, key.first, name(key.second), s.text());
}

std::string order_word(Order order) {  // "hopper-fast" -> "HopperFast", as the tables spell it
  std::string word;
  bool upper = true;
  for (char c : name(order)) {
    if (c != '-') word += upper ? static_cast<char>(std::toupper(c)) : c;
    upper = c == '-';
  }
  return word;
}

/// A rule and the devices that it is for: SHAPE (all), SLOW_MEMORY or FAST_MEMORY.
struct Line {
  const char* word;
  ShapeRule rule;
};

std::string text_of(const Line& line_of) {
  constexpr size_t kWidth = 120;
  const ShapeRule& rule = line_of.rule;
  std::string text = fmt::format("{}({}, {}, {}", line_of.word, order_word(rule.order), rule.n, rule.k);
  size_t line = text.size();
  for (size_t i = 0; i < kMaxPicks && rule.picks[i].max_m; ++i) {
    const std::string pick = fmt::format("{{{}, \"{}\"}}", rule.picks[i].max_m, rule.picks[i].kernel);
    const bool wrap = line + pick.size() + 3 > kWidth;
    text += (wrap ? ",\n      " : ", ") + pick;
    line = wrap ? 6 + pick.size() : line + 2 + pick.size();
  }
  return text + ")\n";
}

void score_rule(const Key& key, const std::vector<ShapeTimes>& shapes, const ShapeRule& rule, Scores& scores) {
  score(key, shapes, scores, [&](const ShapeTimes&, int64_t m, const auto& us) {
    const auto pick = std::find_if(rule.picks.begin(), rule.picks.end(), [&](const Pick& p) { return m <= p.max_m; });
    return std::find_if(us.begin(), us.end(), [&](const auto& x) { return x.first->name == pick->kernel; })->first;
  });
}

/// The lines of one shape: one for all devices if no measured cell loses more than 1 %. A line does not say which
/// operands it is for: weight-only rows are chosen by their predicted times alone.
std::vector<Line> lines_of(const Key& key, const std::vector<ShapeTimes>& shapes, Scores& scores) {
  const auto [order, n, k, weight_only] = key;
  std::vector<ShapeTimes> all, slow, fast;
  for (const ShapeTimes& t : shapes) {
    if (t.device->sms != kMeasuredSms) continue;
    all.push_back(t);
    (t.device->gbps < kFastMemoryGbps ? slow : fast).push_back(t);
  }
  if (all.empty() || weight_only) return {};
  const ShapeRule rule = make_rule(order, n, k, all);
  Scores own;
  score_rule(key, all, rule, own);
  const bool good = std::all_of(own.begin(), own.end(), [](const auto& s) { return s.second.worst() >= 0.99; });
  std::vector<Line> lines;
  if (good || slow.empty() || fast.empty()) {
    lines.push_back({"SHAPE", rule});
    score_rule(key, all, rule, scores);
  } else {
    for (const auto& [word, some] : {std::pair("SLOW_MEMORY", slow), std::pair("FAST_MEMORY", fast)}) {
      lines.push_back({word, make_rule(order, n, k, some)});
      score_rule(key, some, lines.back().rule, scores);
    }
  }
  return lines;
}

std::string def_file(const std::vector<Tile>& rows, const std::vector<Line>& lines,
                     const std::vector<std::string>& sources) {
  std::string text = fmt::format(
      "// Written by samebits_fit_rules (`make rules`) from {}; do not edit. Included by tables.cpp alone.\n"
      "// Speed only: every row of an Order returns the same bits.\n//\n"
      "// COST(row, launch us, tile us, us for 1000 elements of K, memory, contention, spill): predicted_us() in "
      "core/cost.h.\n",
      fmt::join(sources, ", "));
  for (const Tile& row : rows)
    if (row.cost.launch_us > 0)
      text += fmt::format("COST({}, {}, {}, {}, {}, {}, {})\n", row.name, row.cost.launch_us, row.cost.tile_us,
                          row.cost.k_us, row.cost.memory, row.cost.contention, row.cost.spill);
  text += fmt::format(
      "\n// SHAPE(Order, N, K, {{up to this M, this row}}...): measured weight shapes, for devices of {} SMs. Two "
      "lines where "
      "one\n// would lose more than 1 % on a device: SLOW_MEMORY below {} GB/s, and FAST_MEMORY.\n",
      kMeasuredSms, kFastMemoryGbps);
  for (const Line& line : lines) text += text_of(line);
  return text;
}

int run(const std::string& out, const std::vector<std::string>& paths) {
  std::vector<Tile> rows = rows_of_the_table();
  Results results;
  std::vector<std::string> sources;
  for (const std::string& path : paths) {
    read_results(path, rows, results);
    sources.push_back(std::filesystem::path(path).filename().string());
  }
  Scores held_out, predicted, chosen;
  std::set<std::pair<int64_t, int64_t>> shapes;
  for (const auto& [key, _] : results) shapes.emplace(std::get<1>(key), std::get<2>(key));
  for (const auto& [n, k] : shapes) {
    fit_costs(results, n, k, rows);
    for (const auto& [key, times] : results)
      if (std::get<1>(key) == n && std::get<2>(key) == k) score_prediction(key, times, held_out);
  }
  fit_costs(results, 0, 0, rows);
  std::vector<Line> lines;
  for (const auto& [key, times] : results) {
    score_prediction(key, times, predicted);
    for (const Line& line : lines_of(key, times, chosen)) lines.push_back(line);
  }
  atomic_write_text(out, def_file(rows, lines, sources));
  fmt::print("best row's time over the chosen row's, over every measured cell\n");
  print("SHAPE", chosen);
  print("COST", predicted);
  print("held out", held_out);
  for (const Tile& row : rows)
    if (row.cost.launch_us == 0 && row.out == OutKind::kHalf) fmt::print("not measured: {}\n", row.name);
  return 0;
}

}  // namespace
}  // namespace samebits::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: samebits_fit_rules OUT.def RESULTS.jsonl...\n");
    return 2;
  }
  try {
    return samebits::bench::run(argv[1], {argv + 2, argv + argc});
  } catch (const std::exception& e) {
    fmt::print(stderr, "samebits_fit_rules: {}\n", e.what());
    return 2;
  }
}
