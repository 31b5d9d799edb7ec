// Rules files: JSON with one rule a line, refused unless every word of it holds for this build.
#include "samebits/rules.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <set>
#include <tuple>

#include "core/check.h"
#include "cuda/tile.h"
#include "io/file.h"
#include "io/json.h"

namespace samebits {
namespace {

constexpr std::string_view kFormat = "samebits-rules";
constexpr int kVersion = 1;
constexpr uint64_t kMaxBytes = 16 << 20;
constexpr int kMaxDepth = 5;  // the object, its rules, a rule, its rows, a row

/// The members that the digest covers, of the text of an integer-and-string JSON that has one spelling.
std::string digest_of(Json file) {
  file.erase("digest");
  const std::string text = file.dump();
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

Json to_json(const ShapeRule& rule) {
  Json rows = Json::array();
  for (const Pick& pick : rule.picks)
    if (pick.max_m) rows.push_back({pick.max_m, pick.kernel});
  return {{"order", name(rule.order)}, {"n", rule.n}, {"k", rule.k}, {"min_m", rule.min_m}, {"rows", rows}};
}

/// The members of one file, each checked; errors open with the path.
class Reader {
 public:
  Reader(const std::filesystem::path& path, const Json& file) : path_(path), file_(file) {}

  RuleSet read() {
    if (!file_.is_object() || text(file_, "format") != kFormat) bad_file(path_, "not a rules file of `samebits tune`");
    if (const int64_t version = number(file_, "version"); version != kVersion)
      bad_file(path_, "rules file version {}; this samebits reads {}", version, kVersion);
    if (const std::string digest = digest_of(file_); text(file_, "digest") != digest)
      bad_file(path_, "damaged: its content has the digest {}, it says {}", digest, printable(text(file_, "digest")));
    RuleSet rules;
    rules.version = text(file_, "library");
    if (rules.version != version())
      bad_file(path_, "measured with the rows of samebits {}, this is {}: run `samebits tune` again",
               printable(rules.version), version());
    rules.device = text(file_, "device");
    rules.arch = static_cast<int>(number(file_, "arch"));
    rules.sms = static_cast<int>(number(file_, "sms"));
    rules.driver = static_cast<int>(number(file_, "driver", 0));
    rules.date = text(file_, "date");
    rules.digest = std::stoull(text(file_, "digest"), nullptr, 16);
    std::set<std::tuple<Order, int64_t, int64_t>> known;
    for (const Json& json : array(file_, "rules")) {
      rules.shapes.push_back(shape_rule(json, rules.arch));
      const ShapeRule& r = rules.shapes.back();
      if (!known.emplace(r.order, r.n, r.k).second) bad_file(path_, "two rules for {} {}x{}", name(r.order), r.n, r.k);
    }
    return rules;
  }

 private:
  const Json& member(const Json& object, const char* key) const {
    const auto at = object.is_object() ? object.find(key) : object.end();
    if (at == object.end()) bad_file(path_, "{} is missing", key);
    return *at;
  }
  std::string text(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_string()) bad_file(path_, "{} is {}, not a string", key, printable(value.dump()));
    return value.get<std::string>();
  }
  int64_t number(const Json& object, const char* key, int64_t least = 1) const {
    return integer(member(object, key), key, least);
  }
  int64_t integer(const Json& value, const char* what, int64_t least) const {
    if (!value.is_number_integer() || value < least || value > INT32_MAX)
      bad_file(path_, "{} is {}, not a number of {} to {}", what, printable(value.dump()), least, INT32_MAX);
    return value.get<int64_t>();
  }
  const Json& array(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_array()) bad_file(path_, "{} is {}, not an array", key, printable(value.dump()));
    return value;
  }

  ShapeRule shape_rule(const Json& json, int arch) const {
    ShapeRule rule;
    const std::string order = text(json, "order");
    try {
      rule.order = parse_order(order);
    } catch (const Error& e) {
      bad_file(path_, "{}", e.what());
    }
    rule.n = number(json, "n");
    rule.k = number(json, "k");
    rule.min_m = number(json, "min_m");
    const Json& rows = array(json, "rows");
    if (rows.empty() || rows.size() > kMaxPicks)
      bad_file(path_, "{} rows for {} {}x{}; 1 to {} are read", rows.size(), order, rule.n, rule.k, kMaxPicks);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i].is_array() || rows[i].size() != 2 || !rows[i][1].is_string())
        bad_file(path_, "{} is not [m, row]", printable(rows[i].dump()));
      const int64_t least = i ? rule.picks[i - 1].max_m + 1 : rule.min_m;
      rule.picks[i] = {integer(rows[i][0], "m of a row", least), row(rows[i][1].get<std::string>(), rule.order, arch)};
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
        bad_file(path_, "row {} computes {}, the rule is for {}: rules never change bits", kernel, name(tile.order),
                 name(order));
      if (tile.arch != arch || tile.out != OutKind::kHalf)
        bad_file(path_, "row {} is built for sm_{} and writes {}; rules for sm_{} name rows that write bf16 and fp16",
                 kernel, tile.arch, tile.out == OutKind::kHalf ? "bf16 and fp16" : "fp32", arch);
      return tile.name;
    }
    bad_file(path_, "there is no row called {} among the {} of this build", printable(kernel), cuda::tiles().size());
  }

  const std::filesystem::path& path_;
  const Json& file_;
};

}  // namespace

RuleSet load_rules(const std::filesystem::path& path) {
  const Json file = parse_json(read_text(path, kMaxBytes), path.string(), kMaxDepth);
  return Reader(path, file).read();
}

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
