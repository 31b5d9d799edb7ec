// FP8 checkpoints: a safetensors file or a Hugging Face folder, read by mmap, and what in it is a linear layer.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "samebits/types.h"

namespace samebits {

/// One FP8 linear layer as it lies in the file. Views stay valid as long as the Checkpoint.
struct Linear {
  std::string name;                 ///< without ".weight": "model.layers.0.mlp.down_proj"
  ConstView weight;                 ///< [N,K] e4m3
  std::vector<float> weight_scale;  ///< 1 value, or N (several scales of a fused layer are expanded to N, exactly)
  std::vector<float> input_scale;   ///< empty: dynamic per token; 1 value: static per tensor
  ConstView bias;                   ///< [1,N] bf16, fp16 or fp32, or empty
};

/// Something FP8 that no Linear covers, named so that it is never skipped in silence.
struct NotCovered {
  std::string name;
  std::string reason;  ///< "MoE expert", "block scales [ceil(N/128), ceil(K/128)]", ...
};

/// Which convention the scales and names follow.
enum class CheckpointFormat { kVllmFp8, kCompressedTensors, kModelOpt, kNone };
std::string_view name(CheckpointFormat format);

/// A checkpoint opened for reading. Throws Error(kBadInput or kIo) on anything malformed, with file and tensor named.
class Checkpoint {
 public:
  /// A .safetensors file, or a folder with model.safetensors or model.safetensors.index.json and config.json.
  static Checkpoint open(const std::filesystem::path& path);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  CheckpointFormat format() const;
  const std::vector<Linear>& linears() const;          ///< in order of name
  const std::vector<NotCovered>& not_covered() const;  ///< in order of name

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace samebits
