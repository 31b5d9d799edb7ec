// The safetensors format: 8 bytes of header length, a JSON header, the data of the tensors. Read by mmap, written
// atomically. Used by checkpoint.cpp, quantize_checkpoint.cpp and recording.cpp.
#pragma once
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file.h"
#include "samebits/types.h"

namespace samebits {

/// An element type of the format. Those that samebits computes with have a Dtype; the others are listed and copied.
struct TensorType {
  std::string_view name;  ///< as in the file: "F8_E4M3"
  int bits;               ///< of one element
  std::optional<Dtype> dtype;
};

/// The type called `name`, or null.
const TensorType* find_tensor_type(std::string_view name);
/// The type that stores `dtype`.
const TensorType& tensor_type(Dtype dtype);

/// Where and what one tensor is. `bytes` is aligned to its element, whatever the file's layout.
struct Tensor {
  std::string name;
  const TensorType* type = nullptr;
  std::vector<int64_t> shape;  ///< empty: a scalar
  std::span<const std::byte> bytes;

  int64_t elements() const;
  /// Whether the elements are of a Dtype, and of this one.
  bool is(Dtype dtype) const { return type->dtype == dtype; }
  /// Whether they are F32, BF16 or F16: what scales, biases, activations and weights to quantize may be.
  bool is_float() const { return type->dtype && size_of(*type->dtype) > 1; }
};

/// "F32 [2,3]", for messages.
std::string describe(const Tensor& tensor);

using Metadata = std::map<std::string, std::string>;

/// A safetensors file opened for reading. The whole header is checked before anything else can see it: its length
/// against the file, JSON depth, duplicate names, types, shapes (no overflow), and data_offsets, which must tile the
/// data with no overlap and no gap. Throws Error(kBadInput) with file and tensor named, or Error(kIo).
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);
  /// The same from memory; `what` stands for the path in messages.
  static SafetensorsFile from_bytes(std::vector<std::byte> bytes, std::string what);

  const std::string& path() const { return path_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }  ///< in order of name; views live as long as the file
  const Tensor* find(std::string_view name) const;                 ///< null if there is none
  const Metadata& metadata() const { return metadata_; }           ///< the header's __metadata__

 private:
  SafetensorsFile(std::string path) : path_(std::move(path)) {}
  void parse(std::span<const std::byte> bytes);
  void align(Tensor& tensor);

  std::string path_;
  std::optional<MappedFile> mapped_;
  std::vector<std::byte> owned_;
  std::vector<std::unique_ptr<std::byte[]>> aligned_;  // copies of tensors that lie at odd addresses in the file
  std::vector<Tensor> tensors_;
  Metadata metadata_;
};

/// Name, type and shape of a tensor to be written.
struct TensorSpec {
  std::string name;
  const TensorType* type;
  std::vector<int64_t> shape;
};

/// Writes a safetensors file: the constructor lays it out (widest elements first, then by name, so that every tensor is
/// aligned), write() fills the tensors in any order, commit() gives the file its name. Memory: the header alone.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors, const Metadata& metadata);
  /// All bytes of one tensor. Throws Error(kBadInput) on an unknown name, a wrong size or a second write.
  void write(std::string_view name, std::span<const std::byte> bytes);
  /// Throws Error(kBadInput) if a tensor was not written.
  void commit();

 private:
  struct Slot {
    uint64_t offset;
    uint64_t size;
    bool written;
  };
  std::string path_;
  std::map<std::string, Slot, std::less<>> slots_;
  std::optional<AtomicFile> file_;
};

}  // namespace samebits
