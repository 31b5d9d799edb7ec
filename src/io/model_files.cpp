// Resolves a path to its safetensors files.
#include "io/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace samebits {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxJson = 64 << 20;
constexpr int kMaxConfigDepth = 32;

Json read_json(const fs::path& path) {
  if (!fs::exists(path)) return nullptr;
  Json json = parse_json(read_text(path, kMaxJson), path.string(), kMaxConfigDepth);
  if (!json.is_object()) bad_file(path, "not a JSON object");
  return json;
}

// The word "rank" and a number: vLLM's sharded_state ("model-rank-0-part-0"), TensorRT-LLM ("rank0") and Megatron
// ("mp_rank_00").
bool is_slice(std::string_view name) {
  constexpr std::string_view kRank = "rank";
  if (!name.ends_with(".safetensors")) return false;
  for (size_t at = name.find(kRank); at != name.npos; at = name.find(kRank, at + 1)) {
    const bool word = at == 0 || std::string_view("-_.").find(name[at - 1]) != std::string_view::npos;
    size_t next = at + kRank.size();  // the suffix ".safetensors" keeps it inside of the name
    if (name[next] == '-' || name[next] == '_') ++next;
    if (word && name[next] >= '0' && name[next] <= '9') return true;
  }
  return false;
}

// A shard is a file of the same folder: an index must not reach out of it.
void check_shard_name(const fs::path& index, const std::string& name) {
  if (name.empty() || name.find_first_of("/\\") != std::string::npos || name.find('\0') != std::string::npos ||
      !name.ends_with(".safetensors"))
    bad_file(index, "the shard {} is not the plain name of a .safetensors file", printable(name));
}

}  // namespace

ModelFiles ModelFiles::open(const fs::path& path) {
  ModelFiles model;
  model.path_ = path;
  std::error_code ignored;
  model.folder_ = fs::is_directory(path, ignored);
  if (model.folder_)
    with_io_errors([&] { model.open_folder(); });
  else if (is_slice(path.filename().string()))
    model.slices_.push_back(path.filename().string());
  else
    model.files_.push_back(SafetensorsFile::open(path));

  std::map<std::string_view, const SafetensorsFile*> owner;
  for (const SafetensorsFile& file : model.files_)
    for (const Tensor& tensor : file.tensors()) {
      const auto [it, fresh] = owner.emplace(tensor.name, &file);
      if (!fresh)
        bad_file(path, "tensor {} lies in {} and in {}", printable(tensor.name), it->second->path(), file.path());
      model.tensors_.push_back(&tensor);
    }
  std::sort(model.tensors_.begin(), model.tensors_.end(),
            [](const Tensor* x, const Tensor* y) { return x->name < y->name; });
  return model;
}

void ModelFiles::open_folder() {
  config_ = read_json(path_ / "config.json");
  quant_config_ = read_json(path_ / "hf_quant_config.json");
  if (fs::exists(path_ / "model.safetensors")) {
    files_.push_back(SafetensorsFile::open(path_ / "model.safetensors"));
    return;
  }
  const fs::path index = path_ / "model.safetensors.index.json";
  if (fs::exists(index)) return open_shards(index);

  for (const fs::directory_entry& entry : fs::directory_iterator(path_))
    if (is_slice(entry.path().filename().string())) slices_.push_back(entry.path().filename().string());
  std::sort(slices_.begin(), slices_.end());
  if (slices_.empty()) bad_file(path_, "the folder has neither model.safetensors nor model.safetensors.index.json");
}

void ModelFiles::open_shards(const fs::path& index) {
  const Json json = read_json(index);
  if (!json.contains("weight_map") || !json.at("weight_map").is_object()) bad_file(index, "no weight_map object");
  std::map<std::string, std::vector<std::string>> shards;  // file -> tensors
  for (const auto& [tensor, shard] : json.at("weight_map").items()) {
    if (!shard.is_string()) bad_file(index, "weight_map: the shard of {} is not a string", printable(tensor));
    shards[shard.get<std::string>()].push_back(tensor);
  }
  if (shards.empty()) bad_file(index, "the weight_map is empty");
  for (const auto& [shard, tensors] : shards) {
    check_shard_name(index, shard);
    if (!fs::exists(path_ / shard))
      throw Error(ErrorCode::kIo,
                  fmt::format("{}: the shard {} with {} tensors is missing", path_.string(), shard, tensors.size()));
    files_.push_back(SafetensorsFile::open(path_ / shard));
    for (const std::string& tensor : tensors)
      if (!files_.back().find(tensor))
        bad_file(path_ / shard, "the index puts tensor {} here, but the shard lacks it", printable(tensor));
  }
}

const Tensor* ModelFiles::find(std::string_view name) const {
  const auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const Tensor* tensor, std::string_view wanted) { return tensor->name < wanted; });
  return it != tensors_.end() && (*it)->name == name ? *it : nullptr;
}

}  // namespace samebits
