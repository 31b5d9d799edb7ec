// A floating-point model in, an FP8 model out. Called by `samebits quantize`.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <set>

#include "cuda/cuda.h"
#include "io/layer_names.h"
#include "io/quantize_config.h"
#include "samebits/checkpoint.h"

namespace samebits {
namespace fs = std::filesystem;
namespace {

// Larger files of a model folder are weights in some other format.
constexpr uint64_t kMaxCopied = 256 << 20;

constexpr char kModel[] = "model.safetensors", kConfig[] = "config.json";
// In the metadata of kModel: by this a folder is known to be a result, which may be replaced.
constexpr char kProducerKey[] = "producer", kProducer[] = "samebits";

void check_options(const QuantizeOptions& options) {
  if (options.format != CheckpointFormat::kCompressedTensors && options.format != CheckpointFormat::kVllmFp8)
    throw Error(ErrorCode::kBadInput,
                fmt::format("the format {} is not written; compressed-tensors and vllm-fp8 are", name(options.format)));
  if (options.format == CheckpointFormat::kVllmFp8 && options.weights == Granularity::kPerChannel)
    throw Error(ErrorCode::kBadInput,
                "vllm-fp8 stores one scale per tensor or block; per-channel scales need compressed-tensors");
  if (options.format == CheckpointFormat::kCompressedTensors && options.weights == Granularity::kPerBlock)
    throw Error(ErrorCode::kBadInput, "block scales are written as vllm-fp8 alone");
}

// The result may not replace or grow inside of what it is made from.
void check_places(const fs::path& in, const fs::path& out) {
  const auto inside = [](const fs::path& inner, const fs::path& outer) {
    return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
  };
  const auto plain = [](const fs::path& path) { return without_trailing_slash(fs::weakly_canonical(path)); };
  if (inside(plain(in), plain(out)) || inside(plain(out), plain(in)))
    throw Error(ErrorCode::kBadInput,
                fmt::format("{} and {}: the output must be a folder outside of the input", in.string(), out.string()));
}

struct Quantized {
  std::vector<std::byte> weight;  // [N,K] e4m3
  std::vector<float> scale;       // [1], [N] or [ceil(N/128), ceil(K/128)]
};

Quantized quantize_on_gpu(const ConstView& w, Granularity granularity, std::string_view what, const DeviceInfo& device,
                          Quantized result) {
  check_finite(w, what);
  cuda::set_device(device.ordinal);
  const size_t bytes = result.weight.size() * size_of(w.dtype);
  cuda::Buffer source(bytes), q(result.weight.size()), scale(result.scale.size() * sizeof(float));
  source.upload(w.data, bytes);
  quantize_weight(ConstView(source.data(), w.dtype, w.rows, w.cols), granularity,
                  View(q.data(), Dtype::kE4m3, w.rows, w.cols), static_cast<float*>(scale.data()), what,
                  Launch{.device = &device});
  q.download(result.weight.data(), result.weight.size());
  scale.download(result.scale.data(), result.scale.size() * sizeof(float));
  return result;
}

Quantized quantize(const Tensor& weight, const QuantizeOptions& options) {
  const ConstView w(weight.bytes.data(), *weight.type->dtype, weight.shape[0], weight.shape[1]);
  Quantized result{std::vector<std::byte>(static_cast<size_t>(weight.elements())),
                   std::vector<float>(static_cast<size_t>(weight_scales(options.weights, w.rows, w.cols)))};
  if (!options.device->is_cpu())
    return quantize_on_gpu(w, options.weights, weight.name, *options.device, std::move(result));
  quantize_weight(w, options.weights, View(result.weight.data(), Dtype::kE4m3, w.rows, w.cols), result.scale.data(),
                  weight.name);
  return result;
}

// DeepSeek's name for block scales; they are what dequantizing multiplies by all the same.
std::string scale_name(const Tensor& weight, const QuantizeOptions& options) {
  return weight.name + (options.weights == Granularity::kPerBlock ? "_scale_inv" : "_scale");
}

// Shapes as each format has them on disk.
std::vector<int64_t> scale_shape(const Tensor& weight, const QuantizeOptions& options) {
  if (options.weights == Granularity::kPerChannel) return {weight.shape[0], 1};
  if (options.weights == Granularity::kPerBlock) return {groups_along(weight.shape[0]), groups_along(weight.shape[1])};
  return options.format == CheckpointFormat::kVllmFp8 ? std::vector<int64_t>{} : std::vector<int64_t>{1};
}

// Counts what is written and calls the caller's progress, which may throw to stop.
class Steps {
 public:
  Steps(const QuantizeProgress& progress, size_t total) : progress_(progress), total_(total) {}
  void next(std::string_view name) {
    if (progress_) progress_(name, done_++, total_);
  }

 private:
  const QuantizeProgress& progress_;
  size_t done_ = 0, total_;
};

// What is stored as it is: all other tensors, or the biases of the quantized layers alone.
std::vector<const Tensor*> kept_tensors(const ModelFiles& files, const QuantizePlan& plan, bool linears_only) {
  std::vector<const Tensor*> kept;
  if (linears_only) {
    for (const Tensor* weight : plan.weights)
      if (const Tensor* bias = files.find(fmt::format("{}.bias", *layer_of_weight(weight->name)))) kept.push_back(bias);
    return kept;
  }
  // Both lists are in order of tensor name.
  const auto by_name = [](const Tensor* x, const Tensor* y) { return x->name < y->name; };
  std::set_difference(files.tensors().begin(), files.tensors().end(), plan.weights.begin(), plan.weights.end(),
                      std::back_inserter(kept), by_name);
  return kept;
}

void write_model(const std::vector<const Tensor*>& kept, const QuantizePlan& plan, const QuantizeOptions& options,
                 Steps& steps, const fs::path& path) {
  std::vector<TensorSpec> specs;
  for (const Tensor* weight : plan.weights) {
    specs.push_back({weight->name, &tensor_type(Dtype::kE4m3), weight->shape});
    specs.push_back({scale_name(*weight, options), &tensor_type(Dtype::kF32), scale_shape(*weight, options)});
  }
  for (const Tensor* tensor : kept) specs.push_back({tensor->name, tensor->type, tensor->shape});

  SafetensorsWriter writer(path, std::move(specs),
                           {{"format", "pt"},  // transformers refuses files without it
                            {kProducerKey, kProducer}});
  for (const Tensor* tensor : kept) {
    steps.next(tensor->name);
    writer.write(tensor->name, tensor->bytes);
  }
  for (const Tensor* weight : plan.weights) {
    steps.next(weight->name);
    const Quantized quantized = quantize(*weight, options);
    writer.write(weight->name, quantized.weight);
    writer.write(scale_name(*weight, options), std::as_bytes(std::span(quantized.scale)));
  }
  writer.commit();
}

// Weights in any format, and what is about to be written anew.
bool is_model_file(const fs::path& relative) {
  static constexpr std::array<std::string_view, 13> kWeights = {".safetensors", ".bin",  ".pt",     ".pth",     ".ckpt",
                                                                ".onnx",        ".gguf", ".h5",     ".msgpack", ".ot",
                                                                ".tflite",      ".npz",  ".mlmodel"};
  const std::string file = relative.filename().string();
  return relative == kConfig || relative == "hf_quant_config.json" || file.ends_with(".index.json") ||
         std::find(kWeights.begin(), kWeights.end(), relative.extension().string()) != kWeights.end();
}

// Tokenizer, generation config, pooling config of sentence-transformers, ...: every small file that is no weight.
// Relative paths, in order; larger ones become warnings.
std::vector<std::string> other_files(const fs::path& in, std::vector<std::string>& warnings) {
  std::vector<std::string> others;
  for (auto it = fs::recursive_directory_iterator(in); it != fs::recursive_directory_iterator(); ++it) {
    const fs::path relative = fs::relative(it->path(), in);
    const bool hidden = relative.filename().string().starts_with('.');
    if (hidden && it->is_directory()) it.disable_recursion_pending();
    if (hidden || !it->is_regular_file() || is_model_file(relative)) continue;
    if (it->file_size() > kMaxCopied)
      warnings.push_back(fmt::format("{} ({} bytes) is not copied", relative.string(), it->file_size()));
    else
      others.push_back(relative.string());
  }
  std::sort(others.begin(), others.end());
  return others;
}

void copy_others(const fs::path& in, const fs::path& out, const std::vector<std::string>& others, Steps& steps) {
  for (const std::string& file : others) {
    steps.next(file);
    fs::create_directories((out / file).parent_path());
    atomic_write_text(out / file, fs::file_size(in / file) ? read_text(in / file, kMaxCopied) : "");
  }
}

// Refuses to replace a folder unless its model is this command's and each of its files will be written again.
void check_earlier_result(const fs::path& old, const std::vector<std::string>& others) {
  try {
    const SafetensorsFile model = SafetensorsFile::open(old / kModel);
    const auto producer = model.metadata().find(kProducerKey);
    if (producer == model.metadata().end() || producer->second != kProducer)
      bad_file(old / kModel, "not written by this command, so not replaced; give it a new folder");
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kIo) throw;
    bad_file(old, "the folder is not empty and no earlier result ({}); give it a new folder", e.what());
  }
  std::set<fs::path> known = {kModel, kConfig};
  for (const std::string& file : others)
    for (fs::path path = file; !path.empty(); path = path.parent_path()) known.insert(path);
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(old)) {
    const fs::path relative = fs::relative(entry.path(), old);
    if (!known.contains(relative))
      bad_file(old, "the folder holds {}, which this command would not write again; give it a new folder",
               relative.string());
  }
}

}  // namespace

QuantizeReport quantize_checkpoint(const fs::path& in, const fs::path& out, const QuantizeOptions& options,
                                   const QuantizeProgress& progress) {
  check_options(options);
  const ModelFiles files = ModelFiles::open(in);
  if (!files.slices().empty())
    bad_file(in, "{} is a tensor-parallel shard: it holds one rank's slice of every layer", files.slices()[0]);
  QuantizePlan plan = plan_quantization(files, options);

  QuantizeReport report;
  for (const Tensor* tensor : files.tensors()) report.bytes_in += tensor->bytes.size();
  for (const Tensor* weight : plan.weights) {
    const int64_t n = weight->shape[0], k = weight->shape[1];
    report.quantized.push_back({std::string(*layer_of_weight(weight->name)), n, k, n % 16 != 0 || k % 16 != 0});
  }
  with_io_errors([&] {
    check_places(in, out);
    if (files.is_folder() && !options.linears_only) report.copied = other_files(in, report.warnings);
    AtomicFolder folder(out, [&](const fs::path& old) { check_earlier_result(old, report.copied); });
    const fs::path model = folder.temporary() / kModel;
    const std::vector<const Tensor*> kept = kept_tensors(files, plan, options.linears_only);
    Steps steps(progress, kept.size() + plan.weights.size() + report.copied.size());
    write_model(kept, plan, options, steps, model);
    report.bytes_out = fs::file_size(model);
    atomic_write_text(folder.temporary() / kConfig, quantized_config(files, plan, options).dump(2) + "\n");
    copy_others(in, folder.temporary(), report.copied, steps);
    folder.commit();
  });
  report.skipped = std::move(plan.skipped);
  report.warnings.insert(report.warnings.begin(), plan.warnings.begin(), plan.warnings.end());
  const auto by_name = [](const auto& x, const auto& y) { return x.name < y.name; };
  std::sort(report.quantized.begin(), report.quantized.end(), by_name);
  std::sort(report.skipped.begin(), report.skipped.end(), by_name);
  return report;
}

}  // namespace samebits
