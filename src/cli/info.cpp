// `samebits info`: devices, Orders and the rows of the tables; with --shape, which row would run and why.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "cli/commands.h"
#include "cli/device.h"
#include "cli/extent.h"
#include "cli/text.h"
#include "cuda/tile.h"

namespace samebits::cli {
namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

struct Arguments {
  std::string shape;
  std::vector<std::string> orders = {"hopper-fast", "hopper-promoted"};
  std::string out = "bf16", rules;
  int arch = 0, sms = 132, gbps = 3352;
  int64_t shared_memory = 232448;
  bool uncertified = false, json = false;
};

/// What choose() says about one device and Order.
struct Choice {
  DeviceInfo device;
  Order order;
  std::string kernel, reason;
  std::optional<double> us;  ///< predicted
};

std::string reason_of(const Plan& plan, const ProblemShape& shape) {
  const auto measured = [&](const char* where) {
    return fmt::format("{}: {}x{}, m <= {}", where, shape.n, shape.k, plan.max_m);
  };
  switch (plan.source) {
    case Source::kOnly: return "the CPU backend computes every order";
    case Source::kFixed: return "the fixed row of a device without a certificate";
    case Source::kRules: return measured("rules file");
    case Source::kMeasured: return measured("measured");
    case Source::kPredicted: break;
  }
  return std::isfinite(plan.us) ? fmt::format("predicted: {:.2f} us, the least", plan.us)
                                : "not measured: the least padded work";
}

Choice choice_of(const DeviceInfo& device, Order order, const ProblemShape& shape, Dtype out, const RuleSet* rules) {
  try {
    const Plan plan = choose(device, order, shape.m, shape.n, shape.k, out, rules);
    const bool predicted = plan.source == Source::kPredicted && std::isfinite(plan.us);
    return {device, order, std::string(plan.kernel), reason_of(plan, shape),
            predicted ? std::optional(plan.us) : std::nullopt};
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kUnsupported) throw;
    return {device, order, "", e.what(), {}};
  }
}

/// The described device, or all there are and the CPU.
std::vector<DeviceInfo> devices_of(const Arguments& arguments) {
  if (arguments.arch) {
    DeviceInfo device;
    device.arch = arguments.arch;
    device.sms = arguments.sms;
    device.gbps = arguments.gbps;
    device.shared_memory = arguments.shared_memory;
    device.certified = !arguments.uncertified;
    device.name = "described device";
    return {device};
  }
  std::vector<DeviceInfo> devices = gpus();
  devices.push_back(cpu_device());
  return devices;
}

std::vector<Choice> choices_of(const Arguments& arguments, const std::vector<DeviceInfo>& devices) {
  const std::optional<RuleSet> rules = load_rules_for(arguments.rules, devices);
  if (arguments.shape.empty()) return {};
  const ProblemShape shape = parse_shape(arguments.shape);
  const auto out = parse_dtype(arguments.out);
  if (!out || size_of(*out) == 1)
    throw Error(ErrorCode::kBadInput,
                fmt::format("unknown output dtype '{}'; there are: bf16, fp16, fp32", arguments.out));
  std::vector<Choice> choices;
  for (const DeviceInfo& device : devices)
    for (Order order : parse_orders(arguments.orders))
      choices.push_back(choice_of(device, order, shape, *out, rules ? &*rules : nullptr));
  return choices;
}

std::string_view writes(OutKind out) { return out == OutKind::kFloat ? "fp32" : "bf16, fp16"; }

void print_text(const std::vector<DeviceInfo>& devices, const std::vector<Choice>& choices) {
  Rows rows = {{"device", "arch", "SMs", "shared memory", "memory", "driver", "certified"}};
  for (const DeviceInfo& d : devices)
    rows.push_back(d.is_cpu()
                       ? std::vector<std::string>{"cpu", "-", "-", "-", "-", "-", "yes"}
                       : std::vector<std::string>{
                             d.ordinal < 0 ? d.name : fmt::format("cuda:{} {}", d.ordinal, d.name),
                             fmt::format("sm_{}", d.arch), fmt::format("{}", d.sms), fmt::format("{}", d.shared_memory),
                             fmt::format("{} MiB", d.memory >> 20),
                             fmt::format("{}.{}", d.driver / 1000, d.driver % 1000 / 10), d.certified ? "yes" : "no"});
  fmt::print("{}", columns(rows, {false, false, true, true, true, true, false}));
  if (!choices.empty()) {
    rows = {{"device", "order", "kernel", "why"}};
    for (const Choice& c : choices)
      rows.push_back({c.device.is_cpu() ? "cpu" : c.device.name, std::string(name(c.order)),
                      c.kernel.empty() ? "none" : c.kernel, c.reason});
    fmt::print("\n{}", columns(rows, {false, false, false, false}));
    return;
  }
  rows = {{"order", "chunk", "align bits", "result bits", "promote every", "origin"}};
  for (const OrderSpec& o : kOrders)
    rows.push_back({std::string(o.name), fmt::format("{}", o.chunk), fmt::format("{}", o.align_bits),
                    fmt::format("{}", o.result_bits), o.promote_every ? fmt::format("{}", o.promote_every) : "never",
                    std::string(o.origin)});
  fmt::print("\n{}", columns(rows, {false, true, true, true, true, false}));
  if (cuda::tiles().empty()) return fmt::print("\nno GPU kernels in this build\n");
  rows = {{"kernel", "arch", "tile", "cluster", "schedule", "operands", "order", "out", "shared memory"}};
  for (const Tile& t : cuda::tiles())
    rows.push_back({std::string(t.name), fmt::format("sm_{}", t.arch), fmt::format("{}x{}x{}", t.m, t.n, t.k),
                    fmt::format("{}x{}", t.cluster_m, t.cluster_n), std::string(t.schedule),
                    t.swapped ? "swapped" : "straight", std::string(name(t.order)), std::string(writes(t.out)),
                    fmt::format("{}", t.kernel->shared_memory)});
  fmt::print("\n{}", columns(rows, {false, false, false, false, false, false, false, false, true}));
}

void print_json(const std::vector<DeviceInfo>& devices, const std::vector<Choice>& choices) {
  Json json = {{"format", "samebits-info"}, {"version", 1}};
  json["devices"] = Json::array();
  for (const DeviceInfo& d : devices)
    json["devices"].push_back({{"name", d.name},
                               {"ordinal", d.ordinal},
                               {"arch", d.arch},
                               {"sms", d.sms},
                               {"shared_memory", d.shared_memory},
                               {"memory", d.memory},
                               {"gbps", d.gbps},
                               {"driver", d.driver},
                               {"certified", d.certified}});
  json["orders"] = Json::array();
  for (const OrderSpec& o : kOrders)
    json["orders"].push_back({{"name", o.name},
                              {"chunk", o.chunk},
                              {"align_bits", o.align_bits},
                              {"result_bits", o.result_bits},
                              {"promote_every", o.promote_every},
                              {"origin", o.origin}});
  json["kernels"] = Json::array();
  for (const Tile& t : cuda::tiles())
    json["kernels"].push_back({{"name", t.name},
                               {"arch", t.arch},
                               {"tile", {t.m, t.n, t.k}},
                               {"cluster", {t.cluster_m, t.cluster_n}},
                               {"schedule", t.schedule},
                               {"swapped", t.swapped},
                               {"order", name(t.order)},
                               {"out", writes(t.out)},
                               {"shared_memory", t.kernel->shared_memory}});
  json["choices"] = Json::array();
  for (const Choice& c : choices)
    json["choices"].push_back({{"device", c.device.name},
                               {"ordinal", c.device.ordinal},
                               {"order", name(c.order)},
                               {"kernel", c.kernel.empty() ? Json(nullptr) : Json(c.kernel)},
                               {"reason", c.reason},
                               {"predicted_us", c.us ? Json(*c.us) : Json(nullptr)}});
  fmt::print("{}\n", json.dump());
}

}  // namespace

void add_info(CLI::App& app) {
  CLI::App* command = app.add_subcommand("info", "devices, orders and kernels; which kernel a shape would run");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("--shape", arguments->shape, "m,n,k: print which kernel would run and why");
  command->add_option("--order", arguments->orders, "for --shape: an order, repeatable")
      ->allow_extra_args(false)
      ->delimiter(',');
  command->add_option("--out", arguments->out, "for --shape: output dtype, bf16, fp16 or fp32")->capture_default_str();
  auto* arch =
      command->add_option("--arch", arguments->arch, "describe a device instead: compute capability, such as 90")
          ->check(CLI::Range(1, 999));
  command->add_option("--sms", arguments->sms, "of the described device")
      ->check(CLI::Range(1, 9999))
      ->needs(arch)
      ->capture_default_str();
  command->add_option("--gbps", arguments->gbps, "memory bandwidth of the described device, 10^9 bytes a second")
      ->check(CLI::Range(1, 99999))
      ->needs(arch)
      ->capture_default_str();
  command->add_option("--shared-memory", arguments->shared_memory, "bytes per block of the described device")
      ->check(CLI::Range(1, INT32_MAX))
      ->needs(arch)
      ->capture_default_str();
  command->add_flag("--uncertified", arguments->uncertified, "describe a device whose rows are not proven")
      ->needs(arch);
  command->add_option("--rules", arguments->rules, "for --shape: a rules file of `samebits tune`");
  command->add_flag("--json", arguments->json, "print one line of JSON");
  command->callback([arguments] {
    const auto devices = devices_of(*arguments);
    const auto choices = choices_of(*arguments, devices);
    arguments->json ? print_json(devices, choices) : print_text(devices, choices);
  });
}

}  // namespace samebits::cli
