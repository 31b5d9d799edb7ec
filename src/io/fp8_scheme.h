// What the configs of a model say about its FP8 layers. Used by checkpoint.cpp.
#pragma once
#include <string>

#include "io/model_files.h"
#include "samebits/checkpoint.h"

namespace samebits {

/// How a layer's activations become FP8, as far as the config says.
enum class Activations {
  kUnsaid,   ///< no config: an input_scale means static, none means dynamic per token
  kDynamic,  ///< per token; an input_scale is not read
  kStatic,   ///< per tensor, needs an input_scale
  kOther,    ///< `reason` says what
};

struct Fp8Scheme {
  CheckpointFormat format = CheckpointFormat::kNone;  ///< kNone: the config names no format; names and shapes decide
  Activations activations = Activations::kUnsaid;
  std::string reason;   ///< of kOther
  bool blocks = false;  ///< weights have scales for blocks of 128 x 128, activations for groups of 128
};

/// Reads quantization_config of config.json (or of its text_config) and hf_quant_config.json. Throws Error(kBadInput)
/// on an activation scheme that the format does not have.
Fp8Scheme read_scheme(const ModelFiles& files);

}  // namespace samebits
