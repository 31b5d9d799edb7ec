// The report of `samebits verify` as a table and as JSON.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/device.h"
#include "cli/text.h"
#include "cli/verify.h"

namespace samebits::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string digest(uint64_t value) { return fmt::format("{:016x}", value); }

Json tally(const Tally& t) { return {{"outputs", t.outputs}, {"differing", t.differing}}; }

Json first_difference(const VerifyResult& result) {
  if (!result.first) return nullptr;
  const FirstDifference& d = *result.first;
  return {{"row", d.row},
          {"col", d.col},
          {"dtype", name(d.dtype)},
          {"got", hex(d.dtype, d.got)},
          {"want", hex(d.dtype, d.want)},
          {"ulps", d.ulps},
          {"against", d.against},
          {"batch", d.batch},
          {"position", d.position},
          {"pool_row", d.pool_row},
          {"kernel", d.kernel}};
}

std::string control_line(const VerifyReport& r) {
  const std::string counts =
      fmt::format("a K-split schedule, M = 1, differed in {} of {} outputs", r.control.differing, r.control.outputs);
  return r.control_caught
             ? fmt::format("control: {}: caught by the same comparison\n", counts)
             : fmt::format("control: {}: NOT CAUGHT under every order, so this run proves nothing\n", counts);
}

/// Whether a batch of several rows was held to the same rows alone. With `--batches 1` a run makes the digest, no
/// proof.
bool compared_batches(const VerifyReport& r) {
  return std::any_of(r.batches.begin(), r.batches.end(), [](int64_t m) { return m > 1; });
}

/// Names by reason, a few of each spelled out. The JSON has them all.
std::string not_covered_lines(const std::vector<NotCovered>& not_covered) {
  constexpr size_t kSpelledOut = 6;
  std::map<std::string, std::vector<std::string>> by_reason;
  for (const NotCovered& item : not_covered) by_reason[plain(item.reason)].push_back(plain(item.name));
  std::string text;
  for (const auto& [reason, names] : by_reason) {
    const size_t shown = std::min(names.size(), kSpelledOut);
    text += fmt::format("not covered: {} ({}){}\n",
                        fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "), reason,
                        shown < names.size() ? fmt::format(" and {} more, named by --json", names.size() - shown) : "");
  }
  return text;
}

}  // namespace

std::string verdict(const VerifyReport& report) {
  if (!report.control_caught) return "the control was not caught: nothing is proven";
  return fmt::format("{} of {} outputs differ", report.compared.differing, report.compared.outputs);
}

ExitCode exit_code_of(const VerifyReport& report) {
  return report.cancelled ? kInterrupted : report.passed() ? kSame : kDifferent;
}

std::string explain(const VerifyResult& result) {
  const FirstDifference& d = *result.first;
  return fmt::format(
      "first difference: {} {} {}: row {}, column {}: {} in a batch of {} (kernel {}, pool row 0 at {}), "
      "{} by {} (pool row {}): {} ulps\n",
      plain(result.layer), name(result.order), name(d.dtype), d.row, d.col, hex(d.dtype, d.got), d.batch, d.kernel,
      d.position, hex(d.dtype, d.want), d.against, d.pool_row, d.ulps);
}

std::string verify_table(const VerifyRun& run) {
  const VerifyReport& r = run.report;
  std::vector<std::vector<std::string>> rows = {{"layer", "N x K", "order", "outputs", "differ", "digest"}};
  for (const VerifyResult& x : r.results)
    rows.push_back({plain(x.layer), fmt::format("{} x {}", x.n, x.k), std::string(name(x.order)),
                    fmt::format("{}", x.batches.outputs + x.sample.outputs),
                    fmt::format("{}", x.batches.differing + x.sample.differing), digest(x.digest)});
  std::string text = columns(rows, {false, true, false, true, true, false});
  for (const VerifyResult& x : r.results)
    if (x.first) {
      text += explain(x);
      break;
    }
  text += fmt::format("{} on {}: batches of {} rows, {:.1f} s\n", plain(run.subject), describe(*run.options.device),
                      fmt::join(r.batches, ", "), run.seconds);
  if (!compared_batches(r)) text += "no batch above 1 row was compared\n";
  text += fmt::format("sample: {} outputs of rows alone, {} differ from the {}\n", r.sample.outputs, r.sample.differing,
                      r.sample_against);
  text += control_line(r) + not_covered_lines(run.not_covered);
  text += fmt::format("digest: {} (seed {})\n", digest(r.digest), run.options.seed);
  return text;
}

std::string verify_json(const VerifyRun& run) {
  const VerifyReport& r = run.report;
  const DeviceInfo& device = *run.options.device;
  Json json = {{"format", "samebits-verify"}, {"version", 1}, {"subject", run.subject}};
  json["device"] = {{"name", device.name}, {"arch", device.arch}, {"sms", device.sms}};
  json["batches"] = r.batches;
  json["batches_above_1"] = compared_batches(r);
  for (Dtype dtype : r.dtypes) json["dtypes"].push_back(name(dtype));
  json["kernels"] = run.options.all_kernels ? "all" : "chosen";
  json["seed"] = run.options.seed;
  json["layers"] = Json::array();
  for (const VerifyResult& x : r.results)
    json["layers"].push_back({{"name", x.layer},
                              {"n", x.n},
                              {"k", x.k},
                              {"order", name(x.order)},
                              {"outputs", x.batches.outputs + x.sample.outputs},
                              {"differing", x.batches.differing + x.sample.differing},
                              {"digest", digest(x.digest)},
                              {"first_difference", first_difference(x)},
                              {"sample", tally(x.sample)},
                              {"control", tally(x.control)},
                              {"kernels", x.kernels}});
  json["not_covered"] = Json::array();
  for (const NotCovered& item : run.not_covered)
    json["not_covered"].push_back({{"name", item.name}, {"reason", item.reason}});
  json["control"] = tally(r.control);
  json["control"]["caught"] = r.control_caught;
  json["sample"] = tally(r.sample);
  json["sample"]["against"] = r.sample_against;
  json["outputs"] = r.compared.outputs;
  json["differing"] = r.compared.differing;
  json["digest"] = digest(r.digest);
  json["seconds"] = run.seconds;
  json["verdict"] = verdict(r);
  json["passed"] = r.passed();
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace samebits::cli
