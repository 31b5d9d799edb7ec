// `samebits bench`: the M sweep of every kernel beside the fixed tile and cuBLASLt, in one run. JSON lines and a table.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench_run.h"
#include "cli/commands.h"
#include "cli/device.h"
#include "cli/extent.h"
#include "cli/text.h"

namespace samebits::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kSweep[] = {1, 2, 4, 8, 16, 17, 32, 64, 65, 128, 256, 257, 512, 1024, 2048, 4096, 8192};
constexpr int64_t kCpuSweep[] = {1, 16, 64};  // a CPU takes seconds for what a GPU does in microseconds
constexpr Shape kCpuShapes[] = {{5760, 1920}};

struct Options {
  std::vector<std::string> shapes, models, orders, kernels;
  std::vector<int64_t> m;
  std::string out, cublaslt, rules, device = "auto";
  int rounds = 7;
  bool json = false;
};

struct NamedShape {
  std::string name;
  Shape shape;
};

struct Case {
  NamedShape shape;
  std::vector<int64_t> m;
};

int64_t largest_m(const Case& c) { return *std::max_element(c.m.begin(), c.m.end()); }

std::string today() { return fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::chrono::system_clock::now())); }

// The newest CUDA that the driver can run: "13.0".
std::string driver_of(const DeviceInfo& device) {
  return device.is_cpu() ? "none" : fmt::format("CUDA {}.{}", device.driver / 1000, device.driver % 1000 / 10);
}

NamedShape named(const std::string& model, Shape s) { return {fmt::format("{} {}x{}", model, s.n, s.k), s}; }

std::vector<Case> cases_of(const Options& options, bool cpu) {
  std::vector<int64_t> m = options.m;
  if (m.empty() && cpu) m.assign(std::begin(kCpuSweep), std::end(kCpuSweep));
  if (m.empty()) m.assign(std::begin(kSweep), std::end(kSweep));
  for (int64_t value : m) check_extent("--m", value);
  std::vector<Case> cases;
  for (const std::string& text : options.shapes) {
    const auto [one_m, n, k] = parse_shape(text);
    cases.push_back({{fmt::format("{}x{}", n, k), {n, k}}, {one_m}});
  }
  for (const std::string& model : options.models)
    for (Shape shape : model_shapes(model).shapes) cases.push_back({named(model, shape), m});
  if (!cases.empty()) return cases;
  if (cpu)
    for (Shape shape : kCpuShapes) cases.push_back({{fmt::format("{}x{}", shape.n, shape.k), shape}, m});
  else
    for (const char* model : {"llama3-8b", "qwen3-1.7b"})
      for (Shape shape : model_shapes(model).shapes) cases.push_back({named(model, shape), m});
  return cases;
}

std::vector<Order> orders_of(const Options& options, bool cpu) {
  if (!options.orders.empty()) return parse_orders(options.orders);
  if (cpu) return {Order::kHopperFast};
  return {Order::kHopperFast, Order::kHopperPromoted};
}

void check_kernels(const std::vector<std::string>& asked, const DeviceInfo& device, const std::vector<Order>& orders) {
  std::vector<std::string_view> known = {"all"};
  for (Order order : orders)
    for (std::string_view row : kernels(device, order)) known.push_back(row);
  std::sort(known.begin() + 1, known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  for (const std::string& row : asked)
    if (std::find(known.begin(), known.end(), row) == known.end())
      throw Error(ErrorCode::kBadInput, fmt::format("--kernels {}: no such row of these Orders on {}; there are: {}",
                                                    row, describe(device), fmt::join(known, ", ")));
}

// JSON lines: to --out as they come, and to stdout under --json.
class Lines {
 public:
  Lines(const Options& options, const DeviceInfo& device) : to_stdout_(options.json) {
    head_["device"] = device.name;
    head_["driver"] = driver_of(device);
    head_["date"] = today();
    if (options.out.empty()) return;
    file_.open(options.out, std::ios::trunc);
    if (!file_) throw Error(ErrorCode::kIo, fmt::format("{}: cannot be written", options.out));
  }
  void write(const Json& fields) {
    Json line = head_;
    line.update(fields);
    if (to_stdout_) fmt::print("{}\n", line.dump());
    if (!file_.is_open()) return;
    file_ << line.dump() << std::endl;
    if (!file_) throw Error(ErrorCode::kIo, "the disk refused a line of --out");
  }

 private:
  Json head_;
  bool to_stdout_;
  std::ofstream file_;
};

Json fields_of(Order order, const NamedShape& shape, int64_t m, const BenchResult& r) {
  const auto [n, k] = shape.shape;
  Json line = {{"order", name(order)},
               {"shape", shape.name},
               {"m", m},
               {"n", n},
               {"k", k},
               {"kernel", r.kernel},
               {"us", r.us},
               {"same_bits", r.same_bits},
               {"gbps", static_cast<double>(n * k) / r.us * 1e-3},
               {"tflops", 2.0 * static_cast<double>(m * n) * static_cast<double>(k) / r.us * 1e-6}};
  if (!r.row.empty()) line["row"] = r.row;
  return line;
}

constexpr std::string_view kHeader =
    "      m  samebits us  row               TFLOP/s     GB/s  best row  fixed-tile  cuBLASLt  same bits\n";

// One line of the table: times of the others divided by ours, so more than 1 means samebits is faster.
std::string table_line(int64_t m, Shape shape, const std::vector<BenchResult>& results) {
  const auto find = [&](std::string_view kernel) -> const BenchResult* {
    for (const BenchResult& r : results)
      if (r.kernel == kernel) return &r;
    return nullptr;
  };
  const BenchResult& ours = *find("samebits");
  double best = ours.us;
  bool same = true;
  for (const BenchResult& r : results) {
    if (r.kernel.rfind("samebits:", 0) != 0) continue;
    best = std::min(best, r.us);
    same = same && r.same_bits;
  }
  const auto ratio = [&](const BenchResult* r) {
    return r ? fmt::format("{:.2f}", r->us / ours.us) : std::string("-");
  };
  const BenchResult* lt = find("cublaslt-outer") ? find("cublaslt-outer") : find("cublaslt-outer-slow");
  const double work = 2.0 * static_cast<double>(m * shape.n) * static_cast<double>(shape.k);
  return fmt::format("{:7}  {:11.2f}  {:15} {:9.3g}  {:7.4g}  {:8.2f}  {:>10}  {:>8}  {}\n", m, ours.us, ours.row,
                     work / ours.us * 1e-6, static_cast<double>(shape.n * shape.k) / ours.us * 1e-3, best / ours.us,
                     ratio(find("fixed-tile")), ratio(lt), same ? "all rows" : "DIFFERENT");
}

std::unique_ptr<CublasLt> load_cublaslt(const Options& options) {
  if (options.cublaslt == "none") return nullptr;
  try {
    return std::make_unique<CublasLt>(options.cublaslt);
  } catch (const Error& error) {
    if (!options.cublaslt.empty()) throw;  // asked for by name
    fmt::print(stderr, "{}; it is left out (--cublaslt FILE names it)\n", plain(error.what()));
    return nullptr;
  }
}

void run(const Options& options) {
  const DeviceChoice choice = select_device(options.device, orders_of(options, false));
  const DeviceInfo& device = choice.device;
  const std::vector<Order> orders = orders_of(options, device.is_cpu());
  const std::vector<Case> cases = cases_of(options, device.is_cpu());
  check_kernels(options.kernels, device, orders);
  for (const Case& c : cases) check_memory(device, c.shape.shape, largest_m(c));
  const std::optional<RuleSet> rules = load_rules_for(options.rules, {&device, 1});
  Lines lines(options, device);
  choice.announce();
  const Place place(device);
  std::FILE* text = options.json ? stderr : stdout;
  std::unique_ptr<CublasLt> cublaslt;
  if (device.is_cpu()) {
    fmt::print(text, "No GPU in use: this times the CPU backend on small shapes.\n");
  } else {
    cublaslt = load_cublaslt(options);
    fmt::print(text, "{}, driver for {}, {}, cuBLASLt {}\n", device.name, driver_of(device), today(),
               cublaslt ? cublaslt->version() : "not found");
  }
  for (const Ceiling& c : measure_ceilings(place)) {
    Json line = {{"kernel", c.kernel}, {"us", c.us}};
    if (c.gbps > 0) line["gbps"] = c.gbps;
    lines.write(line);
    fmt::print(text, "{}: {:.2f} us{}\n", c.kernel, c.us, c.gbps > 0 ? fmt::format(", {:.0f} GB/s", c.gbps) : "");
  }
  const bool all = std::count(options.kernels.begin(), options.kernels.end(), "all") > 0;
  const BenchOptions bench{all ? std::vector<std::string>() : options.kernels, cublaslt.get(),
                           rules ? &*rules : nullptr, options.rounds};
  bool same = true;
  for (const Case& c : cases) {
    BenchShape shape(place, c.shape.shape, largest_m(c));
    for (Order order : orders) {
      fmt::print(text, "\n{}, {}\n{}", name(order), c.shape.name, kHeader);
      for (int64_t m : c.m) {
        const std::vector<BenchResult> results = shape.run(order, m, bench);
        for (const BenchResult& r : results) {
          lines.write(fields_of(order, c.shape, m, r));
          same = same && (r.same_bits || r.kernel.rfind("cublaslt", 0) == 0);
        }
        fmt::print(text, "{}", table_line(m, c.shape.shape, results));
        std::fflush(text);
      }
    }
  }
  fmt::print(text,
             "\nbest row, fixed-tile, cuBLASLt: their time divided by the time of the row that samebits chooses; "
             "below 1 samebits loses.\n");
  if (!same) set_exit_code(kDifferent);
}

}  // namespace

void add_bench(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* bench = app.add_subcommand("bench", "time every kernel beside the fixed tile and cuBLASLt, bits compared");
  bench->add_option("--shape", options->shapes, "m,n,k: one M of one weight [N,K]; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  bench->add_option("--shapes", options->models, "weight shapes of a known model: " + model_names());
  bench->add_option("--m", options->m, "batch sizes, separated by commas")->delimiter(',');
  bench->add_option("--order", options->orders, "Orders, separated by commas")->delimiter(',');
  bench->add_option("--kernels", options->kernels, "rows, separated by commas, or all (the default)")->delimiter(',');
  bench->add_option("--cublaslt", options->cublaslt, "the libcublasLt.so to load, or none");
  bench->add_option("--rules", options->rules, "a rules file of `samebits tune`: what `samebits` stands for");
  bench->add_option("--device", options->device, "auto, cpu or cuda:N");
  bench->add_option("--rounds", options->rounds, "replays of each side; the median counts")->check(CLI::Range(1, 1000));
  bench->add_option("--out", options->out, "file for one JSON object a line");
  bench->add_flag("--json", options->json, "JSON lines on stdout, the table on stderr");
  bench->callback([options] { run(*options); });
}

}  // namespace samebits::cli
