// Which layers of a model become FP8, and what config.json then says. Used by quantize_checkpoint.cpp.
#pragma once
#include <string>
#include <vector>

#include "io/model_files.h"
#include "samebits/checkpoint.h"

namespace samebits {

/// The weights to quantize, in order of tensor name, and why the other 2-D ones are not.
struct QuantizePlan {
  std::vector<const Tensor*> weights;
  std::vector<SkippedLayer> skipped;
  std::vector<std::string> ignore;    ///< linear modules that stay as they are, for the config
  std::vector<std::string> warnings;  ///< patterns that match nothing, fused layers that are split
};

/// Throws Error(kBadInput) when the model is quantized already or no layer is left.
QuantizePlan plan_quantization(const ModelFiles& files, const QuantizeOptions& options);

/// config.json of the result: the model's own with quantization_config. Formats: docs/checkpoints.md.
Json quantized_config(const ModelFiles& files, const QuantizePlan& plan, const QuantizeOptions& options);

}  // namespace samebits
