// The report of `samebits prove`, and the certificate that it is worth.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/prove.h"
#include "cli/text.h"

namespace samebits::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string bits(int count, const char* most) { return count < 0 ? most : fmt::format("{}", count); }

std::string describe(const UnitBehaviour& u) {
  return fmt::format("{} a step, {} + {} bits, {}, {}{}", u.chunk(), bits(u.align_bits, "over 30"),
                     bits(u.result_bits, "over 25"), u.truncates ? "truncates" : "does not truncate",
                     u.promote_every ? fmt::format("chains of {}", u.promote_every) : "one chain",
                     u.accumulator_aligned ? "" : ", accumulator added late");
}

uint64_t differing(const ProvedOrder& order) {
  uint64_t sum = 0;
  for (const ProvedRow& row : order.rows) sum += row.differing;
  return sum;
}

std::string_view state_of(const ProvedOrder& order) {
  if (!order.same()) return "rows differ";
  return order.auditable ? "same bits" : "invariant, not auditable";
}

Json or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json counts(const ProvedRow& row) {
  return {{"outputs", row.outputs}, {"differing", row.differing}, {"first", or_null(row.first)}};
}

}  // namespace

CertificateFile settle_certificate(const ProveReport& report, const DeviceInfo& device, int rounds,
                                   const std::string& path) {
  if (!report.complete()) return {"", remove_certificate(path, device) ? path : ""};
  const std::string date = fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::chrono::system_clock::now()));
  save_certificate(make_certificate(report, device, rounds, date), path);
  return {path, ""};
}

ExitCode exit_code_of(const ProveReport& report) {
  if (!report.same()) return kDifferent;
  return report.complete() ? kSame : kBadRequest;
}

std::string not_auditable(const ProvedOrder& order) {
  std::string text = fmt::format("{} is invariant, not auditable", name(order.order));
  if (order.cpu.outputs)
    text += fmt::format(": {} of {} outputs are not the CPU backend's", order.cpu.differing, order.cpu.outputs);
  return text;
}

std::string prove_table(const ProveReport& report, const DeviceInfo& device, double seconds) {
  std::vector<std::vector<std::string>> rows = {
      {"order", "rows", "outputs", "differ", "not the CPU's", "verdict", "matrix unit", "digest"}};
  for (const ProvedOrder& o : report.orders)
    rows.push_back({std::string(name(o.order)), fmt::format("{}", o.rows.size()), fmt::format("{}", o.outputs()),
                    fmt::format("{}", differing(o)), fmt::format("{} of {}", o.cpu.differing, o.cpu.outputs),
                    std::string(state_of(o)), describe(o.unit) + (o.unit.is(spec(o.order)) ? "" : " (not the Order's)"),
                    fmt::format("{:016x}", o.digest)});
  std::string text = columns(rows, {false, true, true, true, true, false, false, false});
  for (const ProvedOrder& o : report.orders) {
    for (const ProvedRow& row : o.rows)
      if (row.differing)
        text += fmt::format("{} {}: {} of {} outputs differ; {}\n", name(o.order), row.name, row.differing, row.outputs,
                            row.first);
    if (o.cpu.differing)
      text += fmt::format("{}: {} of {} outputs of the first rows are not the CPU backend's; {}\n", name(o.order),
                          o.cpu.differing, o.cpu.outputs, o.cpu.first);
  }
  for (const std::string& reason : report.left_out) text += fmt::format("not run: {}\n", reason);
  return text + fmt::format("control: a K-split schedule differed in {} outputs{}\n{}, {:.0f} s\n", report.control,
                            report.control ? ": caught by the same comparison" : ": NOT CAUGHT",
                            samebits::describe(device), seconds);
}

std::string prove_json(const ProveReport& report, const DeviceInfo& device, int rounds, double seconds,
                       const CertificateFile& file) {
  Json json = {{"format", "samebits-prove"}, {"version", 1}, {"rounds", rounds}, {"seconds", seconds}};
  json["device"] = {{"name", device.name}, {"arch", device.arch}, {"sms", device.sms}, {"driver", device.driver}};
  json["orders"] = Json::array();
  uint64_t outputs = 0, sum = 0;
  for (const ProvedOrder& o : report.orders) {
    Json rows = Json::array();
    for (const ProvedRow& row : o.rows) {
      rows.push_back({{"row", row.name}, {"fp32", row.fp32}});
      rows.back().update(counts(row));
    }
    json["orders"].push_back({{"order", name(o.order)},
                              {"verdict", state_of(o)},
                              {"digest", fmt::format("{:016x}", o.digest)},
                              {"cpu", counts(o.cpu)},
                              {"unit",
                               {{"chunk", o.unit.chunk()},
                                {"step", fmt::format("{:016x}", o.unit.step)},
                                {"align_bits", o.unit.align_bits},
                                {"result_bits", o.unit.result_bits},
                                {"truncates", o.unit.truncates},
                                {"accumulator_aligned", o.unit.accumulator_aligned},
                                {"promote_every", o.unit.promote_every},
                                {"is_the_orders", o.unit.is(spec(o.order))}}},
                              {"rows", rows}});
    outputs += o.outputs();
    sum += differing(o);
  }
  json["left_out"] = report.left_out;
  json["control"] = report.control;
  json["outputs"] = outputs;
  json["differing"] = sum;
  json["certificate"] = or_null(file.written);
  json["removed"] = or_null(file.removed);
  json["passed"] = report.complete();
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string prove_verdict(const ProveReport& report, const CertificateFile& file) {
  const std::string removed =
      file.removed.empty() ? "" : fmt::format("; the earlier certificate {} was removed", plain(file.removed));
  if (!report.control) return "the control was not caught: nothing is proven" + removed;
  uint64_t outputs = 0, sum = 0;
  std::string other;
  for (const ProvedOrder& o : report.orders) {
    outputs += o.outputs();
    sum += differing(o);
    if (o.same() && !o.auditable) other += "; " + not_auditable(o);
  }
  std::string end = "no certificate";
  if (!file.written.empty())
    end = "certificate: " + plain(file.written);
  else if (sum == 0 && !report.left_out.empty())
    end += fmt::format(": {} rows could not run", report.left_out.size());
  return fmt::format("{} of {} outputs differ{}; {}{}", sum, outputs, other, end, removed);
}

}  // namespace samebits::cli
