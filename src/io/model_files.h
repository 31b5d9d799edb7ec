// All tensors and configs of a model: one safetensors file, or a Hugging Face folder with one file or several shards.
// Used by checkpoint.cpp and quantize_checkpoint.cpp.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "io/safetensors.h"

namespace samebits {

class ModelFiles {
 public:
  /// Throws Error(kBadInput or kIo): no model in the folder, a shard that is missing or lacks a tensor of the index, a
  /// shard name that is not a plain file name, a tensor in two shards, a config that is no JSON object.
  static ModelFiles open(const std::filesystem::path& path);

  const std::vector<const Tensor*>& tensors() const { return tensors_; }  ///< of all files, in order of name
  const Tensor* find(std::string_view name) const;                        ///< null if there is none
  const Json& config() const { return config_; }              ///< config.json; null for a single file or without one
  const Json& quant_config() const { return quant_config_; }  ///< hf_quant_config.json; null without one
  const std::filesystem::path& path() const { return path_; }
  bool is_folder() const { return folder_; }
  /// Files that hold one rank's slice of every layer; they are not opened, and tensors() is then empty.
  const std::vector<std::string>& slices() const { return slices_; }

 private:
  void open_folder();
  void open_shards(const std::filesystem::path& index);

  std::filesystem::path path_;
  bool folder_ = false;
  std::vector<SafetensorsFile> files_;
  std::vector<const Tensor*> tensors_;
  std::vector<std::string> slices_;
  Json config_, quant_config_;
};

}  // namespace samebits
