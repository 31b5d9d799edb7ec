// Certificate files: JSON with one Order a line, refused unless every word of it holds for this build.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/check.h"
#include "cuda/tile.h"
#include "io/document.h"
#include "samebits/prove.h"
#include "samebits/rules.h"

namespace samebits {
namespace {

constexpr std::string_view kFormat = "samebits-certificate";
constexpr int kVersion = 1;
constexpr int kMaxDepth = 6;  // the object, its orders, an order, its rows, a row
constexpr int64_t kMost = int64_t{1} << 53;

Json to_json(const UnitBehaviour& u) {
  return {{"step", fmt::format("{:016x}", u.step)},
          {"align_bits", u.align_bits},
          {"result_bits", u.result_bits},
          {"truncates", u.truncates},
          {"accumulator_aligned", u.accumulator_aligned},
          {"promote_every", u.promote_every}};
}

Json to_json(const ProvedOrder& order) {
  Json rows = Json::array();
  for (const ProvedRow& row : order.rows)
    rows.push_back({{"row", row.name}, {"fp32", row.fp32}, {"outputs", row.outputs}});
  Json json = {{"order", name(order.order)},
               {"auditable", order.auditable},
               {"digest", fmt::format("{:016x}", order.digest)},
               {"unit", to_json(order.unit)},
               {"rows", rows}};
  const ProvedRow& cpu = order.cpu;
  if (cpu.outputs) json["cpu"] = {{"outputs", cpu.outputs}, {"differing", cpu.differing}, {"first", cpu.first}};
  return json;
}

class Reader {
 public:
  Reader(std::string_view text, const std::filesystem::path& path)
      : file_(text, path, kFormat, kVersion, "samebits prove", kMaxDepth) {}

  Certificate read() {
    const Json& json = file_.json();
    Certificate c;
    c.version = file_.text(json, "library");
    if (c.version != version())
      file_.bad("of the rows of samebits {}, this is {}: run `samebits prove` again", printable(c.version), version());
    c.contract = static_cast<int>(file_.number(json, "contract"));
    if (c.contract != kContractVersion)
      file_.bad("of version {} of the contract, this is {}: run `samebits prove` again", c.contract, kContractVersion);
    c.device = file_.text(json, "device");
    c.arch = static_cast<int>(file_.number(json, "arch"));
    c.sms = static_cast<int>(file_.number(json, "sms"));
    c.driver = static_cast<int>(file_.number(json, "driver"));
    c.date = file_.text(json, "date");
    c.rounds = static_cast<int>(file_.number(json, "rounds"));
    c.digest = file_.digest();
    std::set<Order> known;
    for (const Json& order : file_.array(json, "orders")) {
      c.orders.push_back(order_of(order));
      if (!known.insert(c.orders.back().order).second) file_.bad("{} appears twice", name(c.orders.back().order));
    }
    check_rows(c);
    return c;
  }

 private:
  ProvedOrder order_of(const Json& json) const {
    ProvedOrder order;
    try {
      order.order = parse_order(file_.text(json, "order"));
    } catch (const Error& e) {
      file_.bad("{}", e.what());
    }
    order.auditable = file_.flag(json, "auditable");
    order.digest = file_.hex(json, "digest");
    const Json& unit = file_.member(json, "unit");
    order.unit.step = file_.hex(unit, "step");
    order.unit.align_bits = static_cast<int>(file_.number(unit, "align_bits", -1, 64));
    order.unit.result_bits = static_cast<int>(file_.number(unit, "result_bits", -1, 64));
    order.unit.truncates = file_.flag(unit, "truncates");
    order.unit.accumulator_aligned = file_.flag(unit, "accumulator_aligned");
    order.unit.promote_every = static_cast<int>(file_.number(unit, "promote_every", 0));
    for (const Json& row : file_.array(json, "rows"))
      order.rows.push_back({file_.text(row, "row"), file_.flag(row, "fp32"),
                            static_cast<uint64_t>(file_.number(row, "outputs", 1, kMost)), 0, ""});
    if (!json.contains("cpu")) return order;  // a certificate may lack the counts
    const Json& cpu = file_.member(json, "cpu");
    order.cpu.outputs = static_cast<uint64_t>(file_.number(cpu, "outputs", 1, kMost));
    order.cpu.differing = static_cast<uint64_t>(file_.number(cpu, "differing", 0, kMost));
    order.cpu.first = file_.text(cpu, "first");
    if (order.auditable != (order.cpu.differing == 0))
      file_.bad("auditable is {}, and {} outputs are not the CPU backend's", order.auditable, order.cpu.differing);
    return order;
  }

  /// The rows of the certificate are those of this build for its architecture, no more and no less.
  void check_rows(const Certificate& c) const {
    const auto archs = cuda::archs();
    if (std::find(archs.begin(), archs.end(), c.arch) == archs.end())
      file_.bad("of a GPU of sm_{}: this build has no kernels for it", c.arch);
    std::set<std::string> open;
    for (const ProvedOrder& order : c.orders)
      for (const ProvedRow& row : order.rows)
        if (!open.insert(fmt::format("{} {}{}", name(order.order), row.name, row.fp32 ? " fp32" : "")).second)
          file_.bad("row {} appears twice", printable(row.name));
    for (const Tile& tile : cuda::tiles()) {
      if (tile.arch != c.arch) continue;
      const bool fp32 = tile.out == OutKind::kFloat;
      if (!open.erase(fmt::format("{} {}{}", name(tile.order), tile.name, fp32 ? " fp32" : "")))
        file_.bad("row {} of {} is not proven: run `samebits prove` again", tile.name, name(tile.order));
    }
    if (!open.empty()) file_.bad("there is no row {} in this build", printable(*open.begin()));
  }

  Document file_;
};

}  // namespace

Certificate parse_certificate(std::string_view text, const std::filesystem::path& path) {
  return Reader(text, path).read();
}

Certificate load_certificate(const std::filesystem::path& path) { return parse_certificate(read_document(path), path); }

void save_certificate(const Certificate& c, const std::filesystem::path& path) {
  Json file = {{"format", kFormat},  {"version", kVersion}, {"library", c.version},   {"contract", c.contract},
               {"device", c.device}, {"arch", c.arch},      {"sms", c.sms},           {"driver", c.driver},
               {"date", c.date},     {"rounds", c.rounds},  {"orders", Json::array()}};
  for (const ProvedOrder& order : c.orders) file["orders"].push_back(to_json(order));
  file["digest"] = digest_of(file);
  std::string text = "{", comma = "\n";
  for (const auto& [key, value] : file.items()) {
    if (key == "orders") continue;
    text += fmt::format("{}{}: {}", comma, Json(key).dump(), value.dump());
    comma = ",\n";
  }
  text += ",\n\"orders\": [";
  comma = "\n";
  for (const Json& order : file["orders"]) {
    text += comma + order.dump();
    comma = ",\n";
  }
  atomic_write_text(path, text + "\n]}\n");
}

bool remove_certificate(const std::filesystem::path& path, const DeviceInfo& device) {
  try {
    if (!load_certificate(path).holds_for(device)) return false;
  } catch (const Error&) {  // no file, or none that anybody would believe
    return false;
  }
  return with_io_errors([&] { return std::filesystem::remove(path); });
}

bool Certificate::holds_for(const DeviceInfo& other) const {
  return other.arch == arch && other.sms == sms && other.name == device && other.driver / 1000 == driver / 1000;
}

void check_certificate(const Certificate& c, const DeviceInfo& device) {
  if (c.holds_for(device)) return;
  const auto side = [](const std::string& name, int arch, int sms, int driver) {
    return fmt::format("{} (sm_{}, {} SMs, driver for CUDA {})", name, arch, sms, driver / 1000);
  };
  bad_input("a certificate of {}, this is {}: run `samebits prove` on it", side(c.device, c.arch, c.sms, c.driver),
            device.is_cpu() ? "the CPU" : side(device.name, device.arch, device.sms, device.driver));
}

std::vector<DeviceInfo> with_certificate(std::vector<DeviceInfo> devices, const Certificate& certificate) {
  for (DeviceInfo& device : devices)
    if (certificate.holds_for(device)) device.certified = true;
  return devices;
}

std::vector<DeviceInfo> certified_gpus(const Certificate& certificate) {
  const std::vector<DeviceInfo>& all = cuda_devices();
  const auto holds = [&](const DeviceInfo& device) { return certificate.holds_for(device); };
  if (!all.empty() && std::none_of(all.begin(), all.end(), holds)) check_certificate(certificate, all.front());
  return with_certificate(all, certificate);
}

Certificate make_certificate(const ProveReport& report, const DeviceInfo& device, int rounds, const std::string& date) {
  if (!report.same()) bad_input("the rows of {} do not agree: there is nothing to certify", describe(device));
  if (!report.left_out.empty())
    bad_input("{} rows of {} could not run: {}", report.left_out.size(), describe(device), report.left_out.front());
  Certificate c;
  c.device = device.name, c.arch = device.arch, c.sms = device.sms, c.driver = device.driver;
  c.version = version(), c.date = date, c.rounds = rounds;
  c.orders = report.orders;
  return c;
}

}  // namespace samebits
