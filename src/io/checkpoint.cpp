// Finds the FP8 linear layers of a model and brings their scales into one form. Called by `samebits
// verify`.
#include "samebits/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <variant>

#include "io/fp8_scheme.h"
#include "io/layer_names.h"
#include "io/model_files.h"
#include "numerics/formats.h"

namespace samebits {
namespace {

using Reason = std::string;  // why a layer is not covered

bool is_fp8(const Tensor& tensor) { return tensor.type->name.starts_with("F8_") && tensor.type->name != "F8_E8M0"; }

// FP32, BF16 and FP16 values widened exactly; nothing for other types.
std::optional<std::vector<float>> values(const Tensor& tensor) {
  if (!tensor.is_float()) return std::nullopt;
  const Dtype dtype = *tensor.type->dtype;
  std::vector<float> result(static_cast<size_t>(tensor.elements()));
  for (size_t i = 0; i < result.size(); ++i) result[i] = load(dtype, tensor.bytes.data() + i * size_of(dtype));
  return result;
}

class Reader {
 public:
  Reader(const ModelFiles& files, const Fp8Scheme& scheme) : files_(files), scheme_(scheme) {}

  std::variant<Linear, Reason> read(const Tensor& weight, std::string_view layer) {
    if (Reason reason = unfit(weight, layer); !reason.empty()) return reason;
    Linear linear{.name = std::string(layer), .weight = {}, .weight_scale = {}, .input_scale = {}, .bias = {}};
    linear.weight = ConstView(weight.bytes.data(), Dtype::kE4m3, weight.shape[0], weight.shape[1]);
    for (Reason reason : {read_weight_scale(linear), read_input_scale(linear)})
      if (!reason.empty()) return reason;
    read_bias(linear);
    return linear;
  }

 private:
  const Tensor* part(std::string_view layer, std::string_view suffix) const {
    return files_.find(fmt::format("{}.{}", layer, suffix));
  }

  Reason unfit(const Tensor& weight, std::string_view layer) const {
    if (is_expert(layer)) return "MoE expert";
    if (is_embedding(layer)) return "embedding";
    if (!weight.is(Dtype::kE4m3)) return fmt::format("{} weight; e4m3 is covered", weight.type->name);
    if (weight.shape.size() != 2) return fmt::format("a weight of shape [{}], not [N,K]", fmt::join(weight.shape, ","));
    if (weight.elements() == 0) return fmt::format("an empty weight [{}]", fmt::join(weight.shape, ","));
    if (scheme_.activations == Activations::kOther) return scheme_.reason;
    return {};
  }

  Reason read_weight_scale(Linear& linear) const {
    const Tensor* inverse = part(linear.name, "weight_scale_inv");  // DeepSeek's name for block scales
    const Tensor* scale = inverse ? inverse : part(linear.name, "weight_scale");
    if (!scale) return "FP8 weight without weight_scale";
    std::optional<std::vector<float>> loaded = values(*scale);
    const std::string_view stored = inverse ? "weight_scale_inv" : "weight_scale";
    if (!loaded) return fmt::format("{} is {}", stored, describe(*scale));
    if (scheme_.blocks || inverse) return take_blocks(linear, *scale, stored, std::move(*loaded));
    const int64_t n = linear.weight.rows, k = linear.weight.cols, count = scale->elements();
    const size_t rank = scale->shape.size();
    const bool column = rank == 1 || (rank == 2 && scale->shape[1] == 1);
    if ((count == 1 && rank <= 2) || (count == n && column)) {
      linear.weight_scale = std::move(*loaded);
      return {};
    }
    if (!column) return take_blocks(linear, *scale, stored, std::move(*loaded));
    const auto rows = fused_rows(linear.name, n, files_.config());
    if (!rows || static_cast<int64_t>(rows->size()) != count)
      return fmt::format(
          "weight_scale is {} for a weight [{},{}]: which rows each of the {} scales covers is not known",
          describe(*scale), n, k, count);
    for (size_t i = 0; i < rows->size(); ++i)
      linear.weight_scale.insert(linear.weight_scale.end(), static_cast<size_t>((*rows)[i]), (*loaded)[i]);
    return {};
  }

  // A value for each block of 128 x 128; activations are dynamic in groups of 128.
  Reason take_blocks(Linear& linear, const Tensor& scale, std::string_view stored, std::vector<float> loaded) const {
    const int64_t n = linear.weight.rows, k = linear.weight.cols;
    const std::vector<int64_t> shape = {groups_along(n), groups_along(k)};
    if (scale.shape != shape)
      return fmt::format("block scales: {} is {} for a weight [{},{}]; blocks of 128 x 128 have [{}]", stored,
                         describe(scale), n, k, fmt::join(shape, ","));
    if (scheme_.activations == Activations::kStatic) return "block scales with static activations";
    linear.weight_scale = std::move(loaded);
    linear.blocks = true;
    return {};
  }

  // vLLM takes the largest of several static scales of a fused layer.
  Reason read_input_scale(Linear& linear) const {
    if (scheme_.activations == Activations::kDynamic || linear.blocks) return {};
    const Tensor* scale = part(linear.name, "input_scale");
    if (!scale)
      return scheme_.activations == Activations::kStatic ? "static activations without input_scale" : Reason();
    const std::optional<std::vector<float>> loaded = values(*scale);
    if (!loaded || loaded->empty()) return fmt::format("input_scale is {}", describe(*scale));
    if (loaded->size() > 3 || scale->shape.size() > 1 + (loaded->size() == 1 ? 1 : 0))
      return fmt::format("input_scale is {}, not one value", describe(*scale));
    // A NaN must not get lost in the maximum.
    float largest = loaded->front();
    for (float value : *loaded) largest = value > largest || value != value ? value : largest;
    linear.input_scale = {largest};
    return {};
  }

  void read_bias(Linear& linear) const {
    const Tensor* bias = part(linear.name, "bias");
    if (!bias) return;
    if (!bias->is_float() || bias->shape != std::vector{linear.weight.rows})
      bad_file(files_.path(), "{}.bias is {}; a weight [{},{}] takes a floating-point bias [{}]", linear.name,
               describe(*bias), linear.weight.rows, linear.weight.cols, linear.weight.rows);
    linear.bias = ConstView(bias->bytes.data(), *bias->type->dtype, 1, linear.weight.rows);
  }

  const ModelFiles& files_;
  const Fp8Scheme& scheme_;
};

// Without a config: [N,1] scales are compressed-tensors, [N] ModelOpt, single ones vLLM fp8.
CheckpointFormat format_by_shape(const ModelFiles& files, const std::vector<Linear>& linears) {
  for (const Linear& linear : linears) {
    if (linear.blocks) return CheckpointFormat::kVllmFp8;
    if (linear.weight_scale.size() == 1) continue;
    const size_t rank = files.find(linear.name + ".weight_scale")->shape.size();
    return rank == 2 ? CheckpointFormat::kCompressedTensors : CheckpointFormat::kModelOpt;
  }
  return linears.empty() ? CheckpointFormat::kNone : CheckpointFormat::kVllmFp8;
}

}  // namespace

struct Checkpoint::Impl {
  ModelFiles files;
  CheckpointFormat format = CheckpointFormat::kNone;
  std::vector<Linear> linears;
  std::vector<NotCovered> not_covered;
};

std::string_view name(CheckpointFormat format) {
  switch (format) {
    case CheckpointFormat::kVllmFp8: return "vllm-fp8";
    case CheckpointFormat::kCompressedTensors: return "compressed-tensors";
    case CheckpointFormat::kModelOpt: return "modelopt";
    case CheckpointFormat::kNone: return "none";
  }
  return "?";
}

Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  auto impl = std::make_unique<Impl>();
  impl->files = ModelFiles::open(path);
  const Fp8Scheme scheme = read_scheme(impl->files);
  Reader reader(impl->files, scheme);
  for (const std::string& slice : impl->files.slices())
    impl->not_covered.push_back({slice, "tensor-parallel shard: holds one rank's slice of every layer"});
  for (const Tensor* tensor : impl->files.tensors()) {
    if (!is_fp8(*tensor)) continue;
    const std::optional<std::string_view> layer = layer_of_weight(tensor->name);
    if (!layer) {
      impl->not_covered.push_back({tensor->name, is_expert(tensor->name)
                                                     ? "MoE expert"
                                                     : fmt::format("{} that is no layer's weight", describe(*tensor))});
      continue;
    }
    std::variant<Linear, Reason> read = reader.read(*tensor, *layer);
    if (Linear* linear = std::get_if<Linear>(&read))
      impl->linears.push_back(std::move(*linear));
    else
      impl->not_covered.push_back({std::string(*layer), std::get<Reason>(read)});
  }
  const auto by_name = [](const auto& x, const auto& y) { return x.name < y.name; };
  std::sort(impl->linears.begin(), impl->linears.end(), by_name);  // "a.b" < "a.b.c", but "a.b.c.weight" < "a.b.weight"
  std::sort(impl->not_covered.begin(), impl->not_covered.end(), by_name);
  impl->format = scheme.format != CheckpointFormat::kNone ? scheme.format : format_by_shape(impl->files, impl->linears);
  return Checkpoint(std::move(impl));
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;
CheckpointFormat Checkpoint::format() const { return impl_->format; }
const std::vector<Linear>& Checkpoint::linears() const { return impl_->linears; }
const std::vector<NotCovered>& Checkpoint::not_covered() const { return impl_->not_covered; }

void check_values(const Linear& linear) {
  check_no_nan(linear.weight, linear.name + ".weight");
  for (const auto& [tensor, scales] :
       {std::pair(".weight_scale", &linear.weight_scale), std::pair(".input_scale", &linear.input_scale)})
    check_finite(ConstView(scales->data(), Dtype::kF32, static_cast<int64_t>(scales->size()), 1), linear.name + tensor);
  if (linear.bias) check_no_nan(linear.bias, linear.name + ".bias");
}

}  // namespace samebits
