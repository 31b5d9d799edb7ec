// Checkpoints, shapes and activation files as VerifyLayers.
#include "cli/layers.h"

#include <fmt/format.h>

#include "core/shapes.h"

namespace samebits::cli {

LayerSet layers_of_checkpoint(const std::string& path, const std::atomic<bool>& cancel, Progress& progress) {
  LayerSet set;
  set.checkpoint = Checkpoint::open(path);
  set.not_covered = set.checkpoint->not_covered();
  const std::vector<Linear>& linears = set.checkpoint->linears();
  for (const Linear& linear : linears) {
    if (cancel) break;
    progress.show(static_cast<double>(set.layers.size()) / static_cast<double>(linears.size()),
                  "reading " + linear.name);
    check_values(linear);
    set.layers.push_back(
        {linear.name, linear.weight, linear.weight_scale, linear.input_scale, linear.bias, ConstView(), linear.blocks});
  }
  if (!linears.empty()) return set;
  std::string found = "nothing in it is FP8 (`samebits quantize` makes an FP8 checkpoint of a larger format)";
  if (!set.not_covered.empty())
    found = fmt::format("{} FP8 tensors are not covered, first {}: {}", set.not_covered.size(), set.not_covered[0].name,
                        set.not_covered[0].reason);
  throw Error(ErrorCode::kBadInput, fmt::format("{}: no FP8 linear layer found: {}", path, found));
}

LayerSet layers_of_shapes(const std::string& name, uint64_t seed, int threads, bool blocks,
                          const std::atomic<bool>& cancel, Progress& progress) {
  const ModelShapes& model = model_shapes(name);
  LayerSet set;
  set.random.reserve(model.shapes.size());
  for (const Shape& shape : model.shapes) {
    if (cancel) return set;
    const std::string layer = fmt::format("{}.{}x{}", model.name, shape.n, shape.k);
    progress.show(static_cast<double>(set.random.size()) / static_cast<double>(model.shapes.size()),
                  "random weights: " + layer);
    set.random.push_back(generate_weight(generator_key(seed, layer + ".weight"), shape.n, shape.k, threads,
                                         blocks ? Granularity::kPerBlock : Granularity::kPerChannel));
    const RandomWeight& weight = set.random.back();
    VerifyLayer out;
    out.name = layer;
    out.weight = ConstView(weight.codes.data(), Dtype::kE4m3, shape.n, shape.k);
    out.weight_scale = weight.scale;
    out.blocks = blocks;
    set.layers.push_back(out);
  }
  return set;
}

void load_activations(LayerSet& set, const std::string& path) {
  set.activations = SafetensorsFile::open(path);
  const SafetensorsFile& file = *set.activations;
  for (VerifyLayer& layer : set.layers) {
    const Tensor* tensor = file.find(layer.name);
    if (!tensor && file.tensors().size() == 1) tensor = &file.tensors()[0];
    if (!tensor)
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: no tensor called {} among its {} tensors", path, layer.name, file.tensors().size()));
    if (!tensor->is_float() || tensor->shape.size() != 2 || tensor->shape[0] == 0 ||
        tensor->shape[1] != layer.weight.cols)
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: activations {} are {}; {} takes [M,{}] in BF16, F16 or F32", path, tensor->name,
                              describe(*tensor), layer.name, layer.weight.cols));
    layer.activations = ConstView(tensor->bytes.data(), *tensor->type->dtype, tensor->shape[0], tensor->shape[1]);
  }
}

}  // namespace samebits::cli
