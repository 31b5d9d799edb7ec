// `samebits verify`: every linear layer of a checkpoint, every output row, every batch, the same bits.
#include "cli/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/device.h"
#include "cli/interrupt.h"
#include "cli/layers.h"
#include "cli/progress.h"
#include "core/shapes.h"
#include "io/file.h"

namespace samebits::cli {
namespace {

struct Arguments {
  std::string checkpoint, shapes, activations, json;
  std::string device = "auto", kernels = "chosen", rules;
  std::vector<std::string> orders;  // none: those of VerifyOptions
  std::vector<std::string> dtypes = {"bf16", "fp16"};
  std::vector<int64_t> batches;
  uint64_t seed = 0;
  int threads = 0;
};

VerifyOptions options_of(const Arguments& arguments, const Interrupt& interrupt, Progress& progress) {
  VerifyOptions options;
  if (!arguments.orders.empty()) options.orders = parse_orders(arguments.orders);
  options.dtypes = parse_dtypes(arguments.dtypes);
  options.batches = arguments.batches;
  options.all_kernels = arguments.kernels == "all";
  options.seed = arguments.seed;
  options.threads = arguments.threads;
  options.cancel = interrupt.flag();
  options.progress = [&progress](const VerifyProgress& p) {
    progress.show(p.fraction, fmt::format("{} {}", p.layer, name(p.order)));
  };
  return options;
}

void print(const VerifyRun& run, const std::string& json) {
  if (json == "-")
    fmt::print("{}\n", verify_json(run));
  else
    fmt::print("{}", verify_table(run));
  fmt::print("{}\n", verdict(run.report));
  std::fflush(stdout);  // before a file that cannot be written loses what is known
  if (is_file(json)) atomic_write_text(json, verify_json(run) + "\n");
}

void run_verify(const Arguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  const Interrupt interrupt;
  Progress progress;
  VerifyOptions options = options_of(arguments, interrupt, progress);
  // By default a GPU need not have the Order of block scales: the checkpoint may have none.
  const std::vector<Order> needed =
      arguments.orders.empty() ? std::vector{Order::kHopperFast, Order::kHopperPromoted} : options.orders;
  const DeviceChoice choice = select_device(arguments.device, needed);
  options.device = &choice.device;
  const std::optional<RuleSet> rules = load_rules_for(arguments.rules, {&choice.device, 1});
  options.rules = rules ? &*rules : nullptr;
  if (is_file(arguments.json)) check_can_write(arguments.json);
  const std::atomic<bool>& cancel = *interrupt.flag();
  // Random weights have block scales where nothing but Orders with them is asked for.
  const bool blocks = std::all_of(options.orders.begin(), options.orders.end(),
                                  [](Order order) { return spec(order).scale_block != 0; });
  LayerSet set = arguments.shapes.empty()
                     ? layers_of_checkpoint(arguments.checkpoint, cancel, progress)
                     : layers_of_shapes(arguments.shapes, arguments.seed, arguments.threads, blocks, cancel, progress);
  if (!arguments.activations.empty()) load_activations(set, arguments.activations);
  progress.clear();
  choice.announce();
  const VerifyReport report = verify(set.layers, options);
  progress.clear();
  if (report.cancelled || interrupt.requested()) {
    std::fprintf(stderr, "samebits: interrupted: %zu proofs of a layer were finished, nothing is concluded\n",
                 report.results.size());
    return set_exit_code(kInterrupted);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string& subject = arguments.shapes.empty() ? arguments.checkpoint : arguments.shapes;
  print({subject, options, report, set.not_covered, seconds}, arguments.json);
  set_exit_code(exit_code_of(report));
}

constexpr char kFooter[] =
    R"(Every row is computed alone (M = 1), then in batches where pool row 0 comes first, in the middle and last; every row of
every batch is compared bit by bit. A K-split schedule runs through the same comparison and must be caught.
Batches by default: 1,2,8,16,17,32,64,65, and 128,256,257,1024 on a GPU. The last line of stdout is the verdict,
"0 of N outputs differ". The digest depends on the weights, the seed and the contract, not on device, batches or threads.

Examples:
  samebits verify ./Qwen3-1.7B-FP8
  samebits verify model.safetensors --order hopper-fast --dtype bf16 --device cuda:0 --kernels all
  samebits verify --shapes llama3-8b --json=report.json)";

}  // namespace

void add_verify(CLI::App& app) {
  CLI::App* command = app.add_subcommand("verify", "prove that each output row has the same bits in every batch");
  auto arguments = std::make_shared<Arguments>();
  auto* checkpoint = command->add_option("checkpoint", arguments->checkpoint,
                                         "FP8 checkpoint: a .safetensors file or a Hugging Face folder");
  auto* shapes =
      command->add_option("--shapes", arguments->shapes, "random weights of a known model's shapes: " + model_names());
  shapes->excludes(checkpoint);
  command
      ->add_option("--order", arguments->orders,
                   "an order, repeatable; by default hopper-fast and hopper-promoted, of block scales hopper-block128")
      ->allow_extra_args(false)
      ->delimiter(',');
  command->add_option("--dtype", arguments->dtypes, "output dtype, repeatable; by default bf16 and fp16")
      ->allow_extra_args(false)
      ->delimiter(',');
  command->add_option("--device", arguments->device, "auto, cpu or cuda:N")->capture_default_str();
  command->add_option("--kernels", arguments->kernels, "GPU kernels: the chosen ones, or all that can run")
      ->check(CLI::IsMember({"chosen", "all"}))
      ->capture_default_str();
  command->add_option("--rules", arguments->rules,
                      "a rules file of `samebits tune`: which kernels are the chosen ones");
  command->add_option("--batches", arguments->batches, "batch sizes, such as 1,7,300")
      ->allow_extra_args(false)
      ->delimiter(',');
  command->add_option("--activations", arguments->activations,
                      "safetensors file with activations [M,K], one tensor for each layer's name or one for all");
  command->add_option("--seed", arguments->seed, "of the generated activations and weights")->capture_default_str();
  add_threads(*command, arguments->threads);
  add_verdict_json(*command, arguments->json);
  command->footer(kFooter);
  command->callback([arguments] {
    if (arguments->checkpoint.empty() && arguments->shapes.empty())
      throw CLI::RequiredError("a checkpoint or --shapes");
    run_verify(*arguments);
  });
}

}  // namespace samebits::cli
