// `samebits tune`: times every row on the user's own shapes and GPU, compares the bits of all, writes a rules file.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench_run.h"
#include "cli/commands.h"
#include "cli/device.h"
#include "cli/extent.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "core/picks.h"
#include "io/file.h"
#include "samebits/checkpoint.h"
#include "samebits/rules.h"

namespace samebits::cli {
namespace {

using Json = nlohmann::ordered_json;

// Both sides of every token tile of the tables, and what lies between the large ones.
const std::vector<int64_t> kTunedM = {1,   2,   4,   8,   9,   16,  17,  24,  32,   33,   48,   64,   65,   96,
                                      128, 129, 192, 256, 257, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192};

struct Arguments {
  std::string checkpoint, out = "samebits-rules.json", device = "auto";
  std::vector<std::string> shapes, models, orders = {"hopper-fast", "hopper-promoted"};
  std::vector<int64_t> m = kTunedM;
  int rounds = 7;
  bool json = false;
};

/// One line of the report: a measured M, the row of the new rule and the row that ran without it.
struct Cell {
  Order order;
  Shape shape;
  int64_t m;
  std::string row, before;
  double us, before_us, best_us;
};

/// Kernels take N and K in multiples of 16; a linear layer pads its weight to them.
Shape padded(int64_t n, int64_t k) { return {(n + 15) / 16 * 16, (k + 15) / 16 * 16}; }

std::vector<Shape> shapes_of(const Arguments& arguments) {
  std::vector<Shape> all;
  for (const std::string& text : arguments.shapes) {
    const Shape shape = parse_weight_shape(text);
    all.push_back(padded(shape.n, shape.k));
  }
  for (const std::string& model : arguments.models)
    for (const Shape& shape : model_shapes(model).shapes) all.push_back(padded(shape.n, shape.k));
  if (!arguments.checkpoint.empty()) {
    const Checkpoint checkpoint = Checkpoint::open(arguments.checkpoint);
    for (const Linear& linear : checkpoint.linears()) all.push_back(padded(linear.weight.rows, linear.weight.cols));
    if (checkpoint.linears().empty())
      throw Error(ErrorCode::kBadInput, arguments.checkpoint + ": no FP8 linear layer found");
  }
  const auto key = [](const Shape& s) { return std::pair(s.n, s.k); };
  std::sort(all.begin(), all.end(), [&](const Shape& x, const Shape& y) { return key(x) < key(y); });
  all.erase(std::unique(all.begin(), all.end(), [&](const Shape& x, const Shape& y) { return key(x) == key(y); }),
            all.end());
  return all;
}

/// The GPU to tune. Throws Error(kNoDevice or kUnsupported) where there is nothing to choose from.
const DeviceInfo& gpu_of(const Arguments& arguments, const std::vector<Order>& orders) {
  const DeviceChoice choice = select_device(arguments.device, orders);
  if (choice.device.is_cpu())
    throw Error(ErrorCode::kNoDevice,
                choice.notice.empty() ? "the CPU backend is one kernel: there is nothing to tune" : choice.notice);
  if (!choice.device.certified)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} is held to its fixed row until its other rows are proven: there is nothing to tune",
                            describe(choice.device)));
  return choice.device;
}

class Tuner {
 public:
  Tuner(const Arguments& arguments, const Interrupt& interrupt)
      : arguments_(arguments),
        interrupt_(interrupt),
        orders_(parse_orders(arguments.orders)),
        shapes_(shapes_of(arguments)),
        device_(gpu_of(arguments, orders_)),
        place_(device_),
        m_(arguments.m) {
    std::sort(m_.begin(), m_.end());
    m_.erase(std::unique(m_.begin(), m_.end()), m_.end());
    for (int64_t m : {m_.front(), m_.back()}) check_extent("--m", m);
    for (const Shape& shape : shapes_) check_memory(device_, shape, m_.back());
    rules_.device = device_.name;
    rules_.arch = device_.arch;
    rules_.sms = device_.sms;
    rules_.version = version();
    rules_.driver = device_.driver;
    rules_.date = fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::chrono::system_clock::now()));
  }

  /// Returns early when interrupted.
  void measure_all() {
    for (const Shape& shape : shapes_) {
      BenchShape bench(place_, shape, m_.back());
      for (Order order : orders_) {
        ShapeTimes times{&device_, {}};
        for (int64_t m : m_) {
          if (interrupt_.requested()) return;
          progress_.show(
              static_cast<double>(done_++) / static_cast<double>(shapes_.size() * orders_.size() * m_.size()),
              fmt::format("{}x{} {} m={}", shape.n, shape.k, name(order), m));
          measure(bench, order, shape, m, times);
        }
        if (!differing_.empty()) continue;
        rules_.shapes.push_back(make_rule(order, shape.n, shape.k, {&times, 1}));
        add_cells(order, shape, times);
      }
    }
  }

  void clear_progress() { progress_.clear(); }

  const RuleSet& rules() const { return rules_; }
  const std::vector<Cell>& cells() const { return cells_; }
  /// Rows whose bits were not those of the Order, with their cells: none of them is believed.
  const std::vector<std::string>& differing() const { return differing_; }

 private:
  void measure(BenchShape& bench, Order order, Shape shape, int64_t m, ShapeTimes& times) {
    constexpr std::string_view kPrefix = "samebits:";
    BenchOptions options;
    options.rounds = arguments_.rounds;
    for (const BenchResult& result : bench.run(order, m, options)) {
      if (!result.kernel.starts_with(kPrefix)) continue;
      const std::string row = result.kernel.substr(kPrefix.size());
      if (!result.same_bits)
        differing_.push_back(fmt::format("{} {} m={} n={} k={}", row, name(order), m, shape.n, shape.k));
      times.us[m][choose_named(device_, row, m, shape.n, shape.k).tile] = result.us;
    }
  }

  void add_cells(Order order, Shape shape, const ShapeTimes& times) {
    RuleSet one = rules_;
    one.shapes = {rules_.shapes.back()};
    for (const auto& [m, us] : times.us) {
      const Plan now = choose(device_, order, m, shape.n, shape.k, Dtype::kBf16, &one);
      const Plan before = choose(device_, order, m, shape.n, shape.k);
      double best = us.begin()->second;
      for (const auto& [_, time] : us) best = std::min(best, time);
      cells_.push_back({order, shape, m, std::string(now.kernel), std::string(before.kernel), us.at(now.tile),
                        us.at(before.tile), best});
    }
  }

  const Arguments& arguments_;
  const Interrupt& interrupt_;
  const std::vector<Order> orders_;
  const std::vector<Shape> shapes_;
  const DeviceInfo& device_;
  const Place place_;
  std::vector<int64_t> m_;
  Progress progress_;
  size_t done_ = 0;
  RuleSet rules_;
  std::vector<Cell> cells_;
  std::vector<std::string> differing_;
};

std::string table(const std::vector<Cell>& cells) {
  std::vector<std::vector<std::string>> rows = {{"order", "N x K", "m", "row", "us", "before", "us", "gain"}};
  for (const Cell& c : cells)
    rows.push_back({std::string(name(c.order)), fmt::format("{} x {}", c.shape.n, c.shape.k), fmt::format("{}", c.m),
                    c.row, fmt::format("{:.2f}", c.us), c.before, fmt::format("{:.2f}", c.before_us),
                    fmt::format("{:.3f}", c.before_us / c.us)});
  return columns(rows, {false, true, true, false, true, false, true, true});
}

std::string json_text(const Tuner& tuner, const std::string& out, uint64_t digest) {
  Json json = {{"format", "samebits-tune"},
               {"version", 1},
               {"device", tuner.rules().device},
               {"out", out},
               {"digest", fmt::format("{:016x}", digest)},
               {"cells", Json::array()}};
  for (const Cell& c : tuner.cells())
    json["cells"].push_back({{"order", name(c.order)},
                             {"n", c.shape.n},
                             {"k", c.shape.k},
                             {"m", c.m},
                             {"row", c.row},
                             {"us", c.us},
                             {"before", c.before},
                             {"before_us", c.before_us},
                             {"best_us", c.best_us}});
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

void run_tune(const Arguments& arguments) {
  const Interrupt interrupt;
  Tuner tuner(arguments, interrupt);
  check_can_write(arguments.out);
  tuner.measure_all();
  tuner.clear_progress();
  if (interrupt.requested()) {
    fmt::print(stderr, "samebits: interrupted: {} was not written\n", plain(arguments.out));
    return set_exit_code(kInterrupted);
  }
  if (!tuner.differing().empty()) {
    for (const std::string& row : tuner.differing()) fmt::print("different bits: {}\n", row);
    fmt::print("{} rows did not return the bits of their Order: {} was not written\n", tuner.differing().size(),
               plain(arguments.out));
    return set_exit_code(kDifferent);
  }
  save_rules(tuner.rules(), arguments.out);
  const uint64_t digest = load_rules(arguments.out).digest;
  if (arguments.json) return fmt::print("{}\n", json_text(tuner, arguments.out, digest));
  fmt::print("{}\n{}: {} rules for {}, digest {:016x}; the same bits in every cell\n", table(tuner.cells()),
             plain(arguments.out), tuner.rules().shapes.size(), tuner.rules().device, digest);
}

constexpr char kFooter[] =
    R"(Every row of each Order is timed at every M (CUDA graphs, weights rotated past L2), and every output is compared with the
Order's bits: a rule can only name a row that has them. The file holds for this kind of GPU and this version of samebits,
for the weight shapes in it, from the smallest to the largest M; elsewhere the library's own tables choose.

Use it: samebits info|bench|verify --rules FILE, samebits.load_rules(FILE) in Python, load_rules() in C++, or the environment
variable SAMEBITS_RULES for Python and the vLLM plugin.

Examples:
  samebits tune ./Qwen3-1.7B-FP8 --out rules.json
  samebits tune --shapes llama3-8b --m 1,8,64,512
  samebits tune --shape 4096,2048 --shape 2048,6144 --order hopper-fast)";

}  // namespace

void add_tune(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tune", "time every kernel on your shapes and GPU; write a rules file");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("checkpoint", arguments->checkpoint,
                      "FP8 checkpoint whose linear layers are timed: a .safetensors file or a Hugging Face folder");
  command->add_option("--shape", arguments->shapes, "n,k: a weight [N,K]; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--shapes", arguments->models, "weight shapes of a known model: " + model_names());
  command->add_option("--m", arguments->m, "batch sizes, separated by commas; by default 28 of 1 to 8192")
      ->delimiter(',')
      ->default_str("");
  command->add_option("--order", arguments->orders, "an order, repeatable; by default hopper-fast and hopper-promoted")
      ->allow_extra_args(false)
      ->delimiter(',');
  command->add_option("--device", arguments->device, "auto or cuda:N")->capture_default_str();
  command->add_option("--rounds", arguments->rounds, "replays of each kernel; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--out", arguments->out, "the rules file")->capture_default_str();
  command->add_flag("--json", arguments->json, "print one line of JSON instead of the table");
  command->footer(kFooter);
  command->callback([arguments] {
    if (arguments->checkpoint.empty() && arguments->shapes.empty() && arguments->models.empty())
      throw CLI::RequiredError("a checkpoint, --shape or --shapes");
    run_tune(*arguments);
  });
}

}  // namespace samebits::cli
