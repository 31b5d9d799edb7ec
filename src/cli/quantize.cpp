// `samebits quantize`: an FP32, BF16 or FP16 checkpoint in, an FP8 folder that vLLM and transformers read out.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/device.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "io/file.h"
#include "samebits/checkpoint.h"

namespace samebits::cli {
namespace {

struct Arguments {
  std::string in, out, json, weights, device = "cpu", format;
  std::vector<std::string> ignore;
  bool linears_only = false;
};

/// Thrown out of quantize_checkpoint(), which then leaves nothing behind.
struct Stop {};

QuantizeOptions options_of(const Arguments& arguments, const DeviceInfo& device) {
  QuantizeOptions options;
  const bool block = arguments.weights == "block";
  const bool vllm = arguments.format.empty() ? block : arguments.format == "vllm-fp8";
  if (vllm) options.format = CheckpointFormat::kVllmFp8;
  const bool tensor = arguments.weights.empty() ? vllm : arguments.weights == "tensor";
  options.weights = block ? Granularity::kPerBlock : tensor ? Granularity::kPerTensor : Granularity::kPerChannel;
  options.ignore = arguments.ignore;
  options.linears_only = arguments.linears_only;
  options.device = &device;
  return options;
}

std::string_view word(Granularity weights) {
  return weights == Granularity::kPerBlock ? "block" : weights == Granularity::kPerTensor ? "tensor" : "channel";
}

std::string json_of(const Arguments& arguments, const QuantizeOptions& options, const QuantizeReport& report) {
  nlohmann::json quantized = nlohmann::json::array(), skipped = nlohmann::json::array();
  for (const QuantizedLayer& layer : report.quantized)
    quantized.push_back({{"name", layer.name}, {"n", layer.n}, {"k", layer.k}, {"needs_padding", layer.needs_padding}});
  for (const SkippedLayer& layer : report.skipped) skipped.push_back({{"name", layer.name}, {"reason", layer.reason}});
  const nlohmann::json json = {{"in", arguments.in},
                               {"out", arguments.out},
                               {"format", name(options.format)},
                               {"device", describe(*options.device)},
                               {"weights", word(options.weights)},
                               {"quantized", quantized},
                               {"skipped", skipped},
                               {"copied", report.copied},
                               {"warnings", report.warnings},
                               {"bytes_in", report.bytes_in},
                               {"bytes_out", report.bytes_out}};
  return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

/// Layers of one kind and size on a line: a large model has hundreds.
void print_table(const QuantizeReport& report) {
  std::map<std::pair<int64_t, int64_t>, std::vector<std::string>> shapes;
  for (const QuantizedLayer& layer : report.quantized) shapes[{layer.n, layer.k}].push_back(layer.name);
  std::vector<std::vector<std::string>> rows = {{"layers", "N", "K", "first of them"}};
  for (const auto& [shape, names] : shapes)
    rows.push_back({std::to_string(names.size()), std::to_string(shape.first), std::to_string(shape.second),
                    plain(names.front())});
  fmt::print("{}", columns(rows, {true, true, true, false}));

  std::map<std::string, std::vector<std::string>> reasons;
  for (const SkippedLayer& layer : report.skipped) reasons[layer.reason].push_back(plain(layer.name));
  for (const auto& [reason, names] : reasons) {
    const size_t shown = std::min<size_t>(names.size(), 4);
    fmt::print("not quantized ({}): {}{}\n", plain(reason),
               fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
               names.size() > shown ? fmt::format(" and {} more", names.size() - shown) : "");
  }
  const auto padded = std::count_if(report.quantized.begin(), report.quantized.end(),
                                    [](const QuantizedLayer& layer) { return layer.needs_padding; });
  if (padded) fmt::print("{} layers have an N or K that is no multiple of 16: a GPU needs them padded\n", padded);
}

void run_quantize(const Arguments& arguments) {
  const Interrupt interrupt;
  Progress progress;
  const DeviceChoice choice = select_device(arguments.device, {});
  const QuantizeOptions options = options_of(arguments, choice.device);
  if (!arguments.json.empty() && arguments.json != "-") check_can_write(arguments.json);
  QuantizeReport report;
  try {
    report = quantize_checkpoint(arguments.in, arguments.out, options,
                                 [&](std::string_view item, size_t done, size_t total) {
                                   if (interrupt.requested()) throw Stop();
                                   if (done == 0) choice.announce();
                                   progress.show(static_cast<double>(done) / static_cast<double>(total), item);
                                 });
  } catch (const Stop&) {
    progress.clear();
    std::fprintf(stderr, "samebits: interrupted: nothing was written\n");
    return set_exit_code(kInterrupted);
  }
  progress.clear();
  for (const std::string& warning : report.warnings)
    std::fprintf(stderr, "samebits: warning: %s\n", plain(warning).c_str());
  const std::string json = arguments.json.empty() ? "" : json_of(arguments, options, report);
  if (arguments.json == "-") return fmt::print("{}", json);
  if (!json.empty()) atomic_write_text(arguments.json, json);
  print_table(report);
  fmt::print("{} layers quantized, {:.1f} MB -> {:.1f} MB, written to {}\n", report.quantized.size(),
             static_cast<double>(report.bytes_in) / 1e6, static_cast<double>(report.bytes_out) / 1e6,
             plain(arguments.out));
}

constexpr char kFooter[] =
    R"(Linear layers are the 2-D floating-point tensors *.weight, except embeddings, norms, output and task heads, routers and
GPT-2's Conv1D, by name. OUT appears complete or not at all; an earlier result of this command, and nothing else, is replaced.
compressed-tensors: per-channel (or per-tensor) scales, dynamic per-token activations. vllm-fp8: per-tensor scales, or with
--weights block the layout of DeepSeek-V3 and Qwen3-FP8: blocks of 128 x 128, dynamic activations in groups of 128.

Examples:
  samebits quantize ./Qwen3-1.7B ./Qwen3-1.7B-FP8
  samebits quantize model.safetensors out --weights tensor --linears-only
  samebits quantize ./model ./out --weights block
  samebits quantize ./model ./out --ignore '*.layers.0.*' --ignore '*.down_proj')";

}  // namespace

void add_quantize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("quantize", "turn the linear layers of a checkpoint into FP8");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("in", arguments->in, "checkpoint: a .safetensors file or a Hugging Face folder")->required();
  command->add_option("out", arguments->out, "the folder to write")->required();
  command->add_option("--format", arguments->format, "compressed-tensors (the default, but for blocks) or vllm-fp8")
      ->check(CLI::IsMember({"compressed-tensors", "vllm-fp8"}));
  command
      ->add_option("--weights", arguments->weights,
                   "scales per channel, per tensor or per block of 128 x 128; by default what the format has")
      ->check(CLI::IsMember({"channel", "tensor", "block"}));
  command->add_option("--ignore", arguments->ignore, "leave layers of this name as they are (glob), repeatable")
      ->allow_extra_args(false);
  command->add_flag("--linears-only", arguments->linears_only,
                    "write the quantized layers and config.json, nothing else");
  command->add_option("--device", arguments->device, "cpu or cuda:N; the bits are the same")->capture_default_str();
  command->add_flag("--json{-}", arguments->json,
                    "print one line of JSON instead of the table; --json=FILE writes it to a file");
  command->footer(kFooter);
  command->callback([arguments] { run_quantize(*arguments); });
}

}  // namespace samebits::cli
