// `samebits bench`: the M sweep of every kernel beside the fixed tile and cuBLASLt, in one run. JSON lines and a table.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "cli/bench_layer.h"
#include "cli/bench_output.h"
#include "cli/bench_run.h"
#include "cli/commands.h"
#include "cli/device.h"
#include "cli/extent.h"
#include "cli/text.h"
#include "core/overlap.h"
#include "cuda/timing.h"

namespace samebits::cli {
namespace {

constexpr int64_t kSweep[] = {1, 2, 4, 8, 16, 17, 32, 64, 65, 128, 256, 257, 512, 1024, 2048, 4096, 8192};
constexpr int64_t kCpuSweep[] = {1, 16, 64};  // a CPU takes seconds for what a GPU does in microseconds
constexpr Shape kCpuShapes[] = {{5760, 1920}};
constexpr int64_t kLayerSweep[] = {1, 8, 64, 1024};

struct Options {
  std::vector<std::string> shapes, models, layers, orders, kernels;
  std::vector<int64_t> m;
  std::string cublaslt, rules, device = "auto", overlap;
  int rounds = 7;
  bool weight_only = false;
  LinesTo lines;
};

struct NamedShape {
  std::string name;
  Shape shape;
};

struct Case {
  NamedShape shape;
  std::vector<int64_t> m;
};

int64_t largest(const std::vector<int64_t>& m) { return *std::max_element(m.begin(), m.end()); }

NamedShape named(std::string_view model, Shape s) { return {fmt::format("{} {}x{}", model, s.n, s.k), s}; }

std::vector<Case> cases_of(const Options& options, bool cpu) {
  std::vector<int64_t> m = options.m;
  if (m.empty() && cpu) m.assign(std::begin(kCpuSweep), std::end(kCpuSweep));
  if (m.empty()) m.assign(std::begin(kSweep), std::end(kSweep));
  std::vector<Case> cases;
  for (const std::string& text : options.shapes) {
    const auto [one_m, n, k] = parse_shape(text);
    cases.push_back({{fmt::format("{}x{}", n, k), {n, k}}, {one_m}});
  }
  const auto add_model = [&](std::string_view model) {
    for (Shape shape : model_shapes(model).shapes) cases.push_back({named(model, shape), m});
  };
  const auto add_all = [&] {
    for (const ModelShapes& model : kModelShapes) add_model(model.name);
  };
  for (const std::string& model : options.models) model == "all" ? add_all() : add_model(model);
  if (!cases.empty()) return cases;
  if (cpu)
    for (Shape shape : kCpuShapes) cases.push_back({{fmt::format("{}x{}", shape.n, shape.k), shape}, m});
  else
    add_all();
  return cases;
}

std::vector<Order> orders_of(const Options& options, bool cpu) {
  if (!options.orders.empty()) return parse_orders(options.orders);
  if (cpu) return {Order::kHopperFast};
  return {Order::kHopperFast, Order::kHopperPromoted};
}

void check_kernels(const std::vector<std::string>& asked, const DeviceInfo& device, const std::vector<Order>& orders) {
  std::vector<std::string_view> known = {"all", "chosen"};
  for (Order order : orders)
    for (std::string_view row : kernels(device, order)) known.push_back(row);
  std::sort(known.begin() + 2, known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  for (const std::string& row : asked)
    if (std::find(known.begin(), known.end(), row) == known.end())
      throw Error(ErrorCode::kBadInput, fmt::format("--kernels {}: no such row of these Orders on {}; there are: {}",
                                                    row, describe(device), fmt::join(known, ", ")));
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

std::unique_ptr<Nvml> load_nvml(const Place& place) {
  try {
    return std::make_unique<Nvml>(cuda::pci_bus_id(place.device().ordinal));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    fmt::print(stderr, "{}; the clocks are left out\n", plain(error.what()));
    return nullptr;
  }
}

BenchOptions bench_options(const Options& options) {
  const auto asked = [&](std::string_view word) {
    return std::count(options.kernels.begin(), options.kernels.end(), word) > 0;
  };
  const Overlap usual = options.layers.empty() ? Overlap::kWeight : Overlap::kChain;
  return {options.kernels.empty() || asked("all"), options.kernels,
          options.overlap.empty() ? usual : parse_overlap(options.overlap), nullptr, options.rounds};
}

/// What every timing of one run needs.
struct Session {
  const Place& place;
  const std::vector<Order>& orders;
  const BenchOptions& bench;
  Lines& lines;
  std::FILE* text;
  bool weight_only = false;
  double read_gbps = 0;  ///< the read ceiling; 0 where there is none
  std::unique_ptr<Nvml> nvml = nullptr;

  /// Asked as the work ends: the clocks fall slowly.
  std::optional<Nvml::Clocks> clocks() const { return nvml ? nvml->clocks() : std::nullopt; }
};

/// Times every case and writes its lines. Returns whether every row had the bits of its Order.
bool run_cases(const Session& s, const std::vector<Case>& cases) {
  bool same = true;
  for (const Case& c : cases) {
    std::optional<BenchShape> shape;
    std::optional<Mix> mix;
    for (Order order : s.orders) {
      if (mix != mix_of(order, s.weight_only)) {
        mix = mix_of(order, s.weight_only);
        shape.reset();
        shape.emplace(s.place, c.shape.shape, largest(c.m), *mix);
      }
      fmt::print(s.text, "\n{}, {}\n{}", name(order), c.shape.name, table_header());
      for (int64_t m : c.m) {
        const std::vector<BenchResult> results = shape->run(order, m, s.bench);
        const auto clocks = s.clocks();
        for (const BenchResult& r : results) {
          s.lines.write(fields_of(order, c.shape.name, c.shape.shape, m, r, clocks));
          same = same && (r.same_bits || r.kernel.starts_with("cublaslt"));
        }
        fmt::print(s.text, "{}", table_line(m, c.shape.shape, results));
        std::fflush(s.text);
      }
    }
  }
  fmt::print(s.text,
             "\nbest row, fixed-tile, outer, tensor: their time divided by the time of the row that samebits chooses; "
             "below 1 samebits loses. outer, tensor: cuBLASLt.\n");
  return same;
}

std::vector<int64_t> layer_sweep(const Options& options) {
  if (!options.m.empty()) return options.m;
  return {std::begin(kLayerSweep), std::end(kLayerSweep)};
}

/// Times the layers and writes their lines. Returns whether ours had the same bits at every M.
bool run_layers(const Session& s, const std::vector<std::string>& models, const std::vector<int64_t>& sweep) {
  bool same = true;
  for (const std::string& model : models) {
    BenchLayer layer(s.place, model, largest(sweep));
    const int64_t bytes = layer.weight_bytes();
    for (Order order : s.orders) {
      fmt::print(s.text, "\n{}, a layer of {}, {:.1f} MB of weights\n{}", name(order), model,
                 static_cast<double>(bytes) * 1e-6, layer_header());
      for (int64_t m : sweep) {
        const std::vector<LayerResult> results = layer.run(order, m, s.bench);
        const auto clocks = s.clocks();
        for (const LayerResult& r : results) {
          s.lines.write(layer_fields(order, model, bytes, m, r, s.read_gbps, clocks));
          fmt::print(s.text, "{}", layer_line(bytes, m, r, s.read_gbps));
          same = same && (r.same_bits || r.kernel == "cublaslt");
        }
        std::fflush(s.text);
      }
    }
  }
  return same;
}

void run(const Options& options) {
  const DeviceChoice choice = select_device(options.device, orders_of(options, false));
  const DeviceInfo& device = choice.device;
  const bool layers = !options.layers.empty();
  const std::vector<Order> orders = orders_of(options, device.is_cpu() || layers);
  for (int64_t value : options.m) check_extent("--m", value);
  const std::vector<Case> cases = layers ? std::vector<Case>() : cases_of(options, device.is_cpu());
  BenchOptions bench = bench_options(options);
  check_kernels(options.kernels, device, orders);
  for (const Case& c : cases)
    for (Order order : orders) check_memory(device, c.shape.shape, largest(c.m), mix_of(order, options.weight_only));
  for (const std::string& model : options.layers) check_layer(device, model, largest(layer_sweep(options)));
  const std::optional<RuleSet> rules = load_rules_for(options.rules, {&device, 1});
  bench.rules = rules ? &*rules : nullptr;
  Lines lines(options.lines, device);
  choice.announce();
  const Place place(device);
  std::FILE* text = options.lines.to_stdout ? stderr : stdout;
  std::unique_ptr<CublasLt> cublaslt;
  if (device.is_cpu()) {
    fmt::print(text, "No GPU in use: this times the CPU backend on small shapes.\n");
  } else {
    cublaslt = load_cublaslt(options);
    bench.cublaslt = cublaslt.get();
    fmt::print(text, "{}, driver for {}, {}, cuBLASLt {}\n", device.name, driver_of(device), today(),
               cublaslt ? cublaslt->version() : "not found");
  }
  Session session{place, orders, bench, lines, text, options.weight_only};
  if (!device.is_cpu()) session.nvml = load_nvml(place);
  for (const Ceiling& c : measure_ceilings(place)) {
    Json line = {{"kernel", c.kernel}, {"us", five_digits(c.us)}};
    if (c.gbps > 0) line["gbps"] = five_digits(session.read_gbps = c.gbps);
    lines.write(line);
    fmt::print(text, "{}: {:.2f} us{}\n", c.kernel, c.us, c.gbps > 0 ? fmt::format(", {:.0f} GB/s", c.gbps) : "");
  }
  const bool same = layers ? run_layers(session, options.layers, layer_sweep(options)) : run_cases(session, cases);
  if (!same) set_exit_code(kDifferent);
}

}  // namespace

void add_bench(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* bench = app.add_subcommand("bench", "time every kernel beside the fixed tile and cuBLASLt, bits compared");
  const auto shape = bench->add_option("--shape", options->shapes, "m,n,k: one M of one weight [N,K]; may be repeated")
                         ->expected(1)
                         ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  const auto shapes = bench
                          ->add_option("--shapes", options->models,
                                       "weight shapes of known models, or all (the default): " + model_names())
                          ->delimiter(',');
  bench
      ->add_option(
          "--layer", options->layers,
          "time a layer of these models as one graph instead, without its attention: qwen3-1.7b, llama3-8b, ...")
      ->delimiter(',')
      ->excludes(shape)
      ->excludes(shapes);
  bench->add_option("--m", options->m, "batch sizes, separated by commas")->delimiter(',');
  bench->add_option("--order", options->orders, "Orders, separated by commas")->delimiter(',');
  bench->add_option("--kernels", options->kernels, "rows, separated by commas, or all (the default), or chosen")
      ->delimiter(',');
  bench->add_option("--overlap", options->overlap,
                    "how our kernels start: none, launch, weight (the default of shapes), chain (of layers); the peers "
                    "start plainly");
  bench->add_flag("--weight-only", options->weight_only, "16-bit Orders: an e4m3 weight beside bf16 tokens");
  bench->add_option("--cublaslt", options->cublaslt, "the libcublasLt.so to load, or none");
  bench->add_option("--rules", options->rules, "a rules file of `samebits tune`: what `samebits` stands for");
  bench->add_option("--device", options->device, "auto, cpu or cuda:N");
  bench->add_option("--rounds", options->rounds, "replays of each side; the median counts")->check(CLI::Range(1, 1000));
  const auto out = bench->add_option("--out", options->lines.file, "file for one JSON object a line");
  bench->add_flag("--append", options->lines.append, "add to the file of --out, so that several runs make one")
      ->needs(out);
  bench->add_flag("--json", options->lines.to_stdout, "JSON lines on stdout, the table on stderr");
  bench->callback([options] { run(*options); });
}

}  // namespace samebits::cli
