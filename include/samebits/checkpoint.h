// FP8 checkpoints: a safetensors file or a Hugging Face folder, read by mmap, and what in it is a linear layer.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "samebits/gemm.h"
#include "samebits/quantize.h"
#include "samebits/types.h"

namespace samebits {

/// One FP8 linear layer as it lies in the file. Views stay valid as long as the Checkpoint.
struct Linear {
  std::string name;                 ///< without ".weight": "model.layers.0.mlp.down_proj"
  ConstView weight;                 ///< [N,K] e4m3
  std::vector<float> weight_scale;  ///< 1 value, or N (several scales of a fused layer are expanded to N, exactly)
  bool blocks = false;              ///< weight_scale is [ceil(N/128), ceil(K/128)], row-major; dynamic in groups of 128
  std::vector<float> input_scale;   ///< empty: dynamic per token; 1 value: static per tensor
  ConstView bias;                   ///< [1,N] bf16, fp16 or fp32, or empty
};

/// Something FP8 that no Linear covers, named so that it is never skipped in silence.
struct NotCovered {
  std::string name;
  std::string reason;  ///< "MoE expert", "embedding", ...
};

/// Which convention the scales and names follow.
enum class CheckpointFormat { kVllmFp8, kCompressedTensors, kModelOpt, kNone };
std::string_view name(CheckpointFormat format);

/// A checkpoint opened for reading: what vLLM's FP8, DeepSeek's block-scaled FP8, compressed-tensors and ModelOpt
/// layouts store, with or without a config.json (names and shapes then decide). Anything FP8 ends up in linears() or in
/// not_covered(). Throws Error(kBadInput or kIo) on anything malformed, with file and tensor named.
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

/// Throws Error(kBadInput) with tensor and coordinate if the weight or bias of `linear` holds a NaN or one of its
/// scales is NaN or infinite. open() does not look at values, because that reads every byte of the file.
void check_values(const Linear& linear);

/// How quantize_checkpoint() works.
struct QuantizeOptions {
  Granularity weights = Granularity::kPerChannel;
  /// kVllmFp8 has one scale per tensor, or blocks as weight_scale_inv; blocks are written in no other format.
  CheckpointFormat format = CheckpointFormat::kCompressedTensors;
  std::vector<std::string> ignore = {};      ///< globs (* and ?) over layer names: "*.layers.0.*"
  bool linears_only = false;                 ///< leave out every tensor that is not of a quantized layer
  const DeviceInfo* device = &cpu_device();  ///< where the weights are quantized; the bits are the same everywhere
};

/// A layer that was quantized.
struct QuantizedLayer {
  std::string name;
  int64_t n = 0;
  int64_t k = 0;
  bool needs_padding = false;  ///< N or K is no multiple of 16: the linear layer pads it
};

/// A 2-D floating-point weight that was not quantized.
struct SkippedLayer {
  std::string name;
  std::string reason;  ///< "embedding", "output head", "router", "matches --ignore ...", ...
};

/// What quantize_checkpoint() did.
struct QuantizeReport {
  std::vector<QuantizedLayer> quantized;  ///< in order of name
  std::vector<SkippedLayer> skipped;      ///< in order of name
  std::vector<std::string> copied;        ///< other files of the folder, relative paths
  std::vector<std::string> warnings;      ///< sentences
  uint64_t bytes_in = 0;                  ///< of the tensors read
  uint64_t bytes_out = 0;                 ///< of model.safetensors
};

/// Called before each tensor and each copied file with its name, how many are done and how many there are. May throw to
/// stop: nothing is left.
using QuantizeProgress = std::function<void(std::string_view name, size_t done, size_t total)>;

/// Quantizes the linear layers of an FP32, BF16 or FP16 checkpoint (a file or a folder) into the folder `out`:
/// model.safetensors, config.json with quantization_config, and the other small files of the folder. A linear layer is
/// a 2-D floating-point tensor *.weight that is no embedding, norm, output or task head, router or Conv1D by name.
/// `out` appears complete or not at all; it is replaced only if it holds an earlier result of this function (known by
/// the model's metadata) and no file that is not written again. Throws Error(kBadInput) on NaN or infinity in a weight,
/// by name and coordinate, and when no layer is left to quantize; Error(kIo) on a full disk.
QuantizeReport quantize_checkpoint(const std::filesystem::path& in, const std::filesystem::path& out,
                                   const QuantizeOptions& options = {}, const QuantizeProgress& progress = {});

}  // namespace samebits
