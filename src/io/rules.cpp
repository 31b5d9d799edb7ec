// Rules files: JSON with one rule a line, refused unless every word of it holds for this build.
#include "samebits/rules.h"

#include <fmt/format.h>

#include <set>
#include <tuple>

#include "core/check.h"
#include "cuda/tile.h"
#include "io/document.h"

namespace samebits {
namespace {

constexpr std::string_view kFormat = "samebits-rules";
constexpr int kVersion = 1;
constexpr int kMaxDepth = 5;  // the object, its rules, a rule, its rows, a row

Json to_json(const ShapeRule& rule) {
  Json rows = Json::array();
  for (const Pick& pick : rule.picks)
    if (pick.max_m) rows.push_back({pick.max_m, pick.kernel});
  return {{"order", name(rule.order)}, {"n", rule.n}, {"k", rule.k}, {"min_m", rule.min_m}, {"rows", rows}};
}

/// The members of one file, each checked; errors open with the path.
class Reader {
 public:
  Reader(std::string_view text, const std::filesystem::path& path)
      : file_(text, path, kFormat, kVersion, "samebits tune", kMaxDepth) {}

  RuleSet read() {
    const Json& json = file_.json();
    RuleSet rules;
    rules.version = file_.text(json, "library");
    if (rules.version != version())
      file_.bad("measured with the rows of samebits {}, this is {}: run `samebits tune` again",
                printable(rules.version), version());
    rules.device = file_.text(json, "device");
    rules.arch = static_cast<int>(file_.number(json, "arch"));
    rules.sms = static_cast<int>(file_.number(json, "sms"));
    rules.driver = static_cast<int>(file_.number(json, "driver", 0));
    rules.date = file_.text(json, "date");
    rules.digest = file_.digest();
    std::set<std::tuple<Order, int64_t, int64_t>> known;
    for (const Json& rule : file_.array(json, "rules")) {
      rules.shapes.push_back(shape_rule(rule, rules.arch));
      const ShapeRule& r = rules.shapes.back();
      if (!known.emplace(r.order, r.n, r.k).second) file_.bad("two rules for {} {}x{}", name(r.order), r.n, r.k);
    }
    return rules;
  }

 private:
  ShapeRule shape_rule(const Json& json, int arch) const {
    ShapeRule rule;
    const std::string order = file_.text(json, "order");
    try {
      rule.order = parse_order(order);
    } catch (const Error& e) {
      file_.bad("{}", e.what());
    }
    rule.n = file_.number(json, "n");
    rule.k = file_.number(json, "k");
    rule.min_m = file_.number(json, "min_m");
    const Json& rows = file_.array(json, "rows");
    if (rows.empty() || rows.size() > kMaxPicks)
      file_.bad("{} rows for {} {}x{}; 1 to {} are read", rows.size(), order, rule.n, rule.k, kMaxPicks);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i].is_array() || rows[i].size() != 2 || !rows[i][1].is_string())
        file_.bad("{} is not [m, row]", printable(rows[i].dump()));
      const int64_t least = i ? rule.picks[i - 1].max_m + 1 : rule.min_m;
      rule.picks[i] = {file_.integer(rows[i][0], "m of a row", least),
                       row(rows[i][1].get<std::string>(), rule.order, arch)};
    }
    return rule;
  }

  /// The table's own name of a row, if it may stand in a rule for the Order.
  std::string_view row(const std::string& kernel, Order order, int arch) const {
    const Tile* found = nullptr;  // of this architecture, or of another: two tables may use the same names
    for (const Tile& tile : cuda::tiles())
      if (tile.name == kernel && (!found || tile.arch == arch)) found = &tile;
    if (found) {
      const Tile& tile = *found;
      if (tile.order != order)
        file_.bad("row {} computes {}, the rule is for {}: rules never change bits", kernel, name(tile.order),
                  name(order));
      if (tile.arch != arch || tile.out != OutKind::kHalf)
        file_.bad("row {} is built for sm_{} and writes {}; rules for sm_{} name rows that write bf16 and fp16", kernel,
                  tile.arch, tile.out == OutKind::kHalf ? "bf16 and fp16" : "fp32", arch);
      return tile.name;
    }
    file_.bad("there is no row called {} among the {} of this build", printable(kernel), cuda::tiles().size());
  }

  Document file_;
};

}  // namespace

RuleSet parse_rules(std::string_view text, const std::filesystem::path& path) { return Reader(text, path).read(); }

RuleSet load_rules(const std::filesystem::path& path) { return parse_rules(read_document(path), path); }

void save_rules(const RuleSet& rules, const std::filesystem::path& path) {
  Json file = {{"format", kFormat},       {"version", kVersion},   {"library", rules.version}, {"device", rules.device},
               {"arch", rules.arch},      {"sms", rules.sms},      {"driver", rules.driver},   {"date", rules.date},
               {"orders", Json::array()}, {"rules", Json::array()}};
  std::set<Order> orders;
  for (const ShapeRule& rule : rules.shapes) {
    orders.insert(rule.order);
    file["rules"].push_back(to_json(rule));
  }
  for (Order order : orders) file["orders"].push_back(name(order));
  file["digest"] = digest_of(file);

  std::string text = "{", comma = "\n";
  for (const auto& [key, value] : file.items()) {
    if (key == "rules") continue;
    text += fmt::format("{}{}: {}", comma, Json(key).dump(), value.dump());
    comma = ",\n";
  }
  text += ",\n\"rules\": [";
  comma = "\n";
  for (const Json& rule : file["rules"]) {
    text += comma + rule.dump();
    comma = ",\n";
  }
  atomic_write_text(path, text + "\n]}\n");
}

void check_rules(const RuleSet& rules, const DeviceInfo& device) {
  if (rules.holds_for(device)) return;
  bad_input("measured on {} (sm_{}, {} SMs), this is {}: run `samebits tune` on it", rules.device, rules.arch,
            rules.sms,
            device.is_cpu() ? "the CPU" : fmt::format("{} (sm_{}, {} SMs)", device.name, device.arch, device.sms));
}

std::string_view version() { return SAMEBITS_VERSION; }

}  // namespace samebits
