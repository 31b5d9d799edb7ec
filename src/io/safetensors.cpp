// The safetensors header, read with suspicion, and the writer.
#include "io/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "io/json.h"

namespace samebits {
namespace {

// The limit of the format's reference implementation.
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr int kMaxHeaderDepth = 4;

constexpr std::array<TensorType, 22> kTypes = {{
    {"F64", 64, {}},
    {"I64", 64, {}},
    {"U64", 64, {}},
    {"C64", 64, {}},
    {"F32", 32, Dtype::kF32},
    {"I32", 32, {}},
    {"U32", 32, {}},
    {"F16", 16, Dtype::kF16},
    {"BF16", 16, Dtype::kBf16},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"F8_E4M3", 8, Dtype::kE4m3},
    {"F8_E5M2", 8, Dtype::kE5m2},
    {"F8_E8M0", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},
    {"F8_E5M2FNUZ", 8, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
}};

// Bytes of a dense tensor, or nothing if that overflows or does not end at a byte.
std::optional<uint64_t> dense_size(const TensorType& type, const std::vector<int64_t>& shape) {
  uint64_t bits = static_cast<uint64_t>(type.bits);
  for (int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(bits, static_cast<uint64_t>(extent), &bits)) return std::nullopt;
  if (bits % 8) return std::nullopt;
  return bits / 8;
}

// A non-negative integer that fits int64; 1.0, -1, 2^63 and "1" are none.
std::optional<int64_t> to_extent(const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return value.get<int64_t>();
}

Metadata parse_metadata(const std::string& path, const Json& json) {
  if (!json.is_object()) bad_file(path, "__metadata__ is not an object");
  Metadata metadata;
  for (const auto& [name, value] : json.items()) {
    if (!value.is_string()) bad_file(path, "__metadata__: the value of {} is not a string", printable(name));
    metadata.emplace(name, value.get<std::string>());
  }
  return metadata;
}

Tensor parse_tensor(const std::string& path, const std::string& name, const Json& json,
                    std::span<const std::byte> data) {
  const std::string shown = printable(name);
  if (!json.is_object() || !json.contains("dtype") || !json.contains("shape") || !json.contains("data_offsets"))
    bad_file(path, "tensor {}: not an object with dtype, shape and data_offsets", shown);
  const Json &dtype = json.at("dtype"), &shape = json.at("shape"), &offsets = json.at("data_offsets");

  Tensor tensor{.name = name, .type = nullptr, .shape = {}, .bytes = {}};
  if (dtype.is_string()) tensor.type = find_tensor_type(dtype.get_ref<const std::string&>());
  if (!tensor.type)
    bad_file(path, "tensor {}: unknown dtype {}", shown,
             printable(dtype.is_string() ? dtype.get_ref<const std::string&>() : dtype.dump()));

  if (!shape.is_array()) bad_file(path, "tensor {}: the shape is not an array", shown);
  for (const Json& value : shape) {
    const std::optional<int64_t> extent = to_extent(value);
    if (!extent) bad_file(path, "tensor {}: {} in the shape is not a size", shown, printable(value.dump()));
    tensor.shape.push_back(*extent);
  }
  const std::optional<uint64_t> size = dense_size(*tensor.type, tensor.shape);
  if (!size)
    bad_file(path, "tensor {}: {} [{}] has no whole number of bytes below 2^61", shown, tensor.type->name,
             fmt::join(tensor.shape, ","));

  if (!offsets.is_array() || offsets.size() != 2 || !to_extent(offsets[0]) || !to_extent(offsets[1]))
    bad_file(path, "tensor {}: data_offsets is not [begin, end]", shown);
  const uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (begin > end || end > data.size())
    bad_file(path, "tensor {}: data_offsets [{}, {}] outside of the {} bytes of data", shown, begin, end, data.size());
  if (end - begin != *size)
    bad_file(path, "tensor {}: data_offsets [{}, {}] hold {} bytes but {} [{}] needs {}", shown, begin, end,
             end - begin, tensor.type->name, fmt::join(tensor.shape, ","), *size);
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

// The data must be tiled: no overlap, no gap, nothing behind the last tensor.
void check_layout(const std::string& path, const std::vector<Tensor>& tensors, std::span<const std::byte> data) {
  std::vector<const Tensor*> order;
  for (const Tensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const Tensor* x, const Tensor* y) {
    return std::pair(x->bytes.data(), x->bytes.size()) < std::pair(y->bytes.data(), y->bytes.size());
  });
  const std::byte* expected = data.data();
  for (const Tensor* tensor : order) {
    if (tensor->bytes.data() != expected)
      bad_file(
          path, "tensor {}: its data begins at {}, {} {}", printable(tensor->name), tensor->bytes.data() - data.data(),
          tensor->bytes.data() < expected ? "inside of another tensor that ends at" : "behind a gap that begins at",
          expected - data.data());
    expected += tensor->bytes.size();
  }
  if (expected != data.data() + data.size())
    bad_file(path, "{} bytes of data but the tensors end at {}", data.size(), expected - data.data());
}

}  // namespace

const TensorType* find_tensor_type(std::string_view name) {
  const auto it = std::find_if(kTypes.begin(), kTypes.end(), [&](const TensorType& t) { return t.name == name; });
  return it == kTypes.end() ? nullptr : &*it;
}

const TensorType& tensor_type(Dtype dtype) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [&](const TensorType& t) { return t.dtype == dtype; });
}

int64_t Tensor::elements() const {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

std::string describe(const Tensor& tensor) {
  return fmt::format("{} [{}]", tensor.type->name, fmt::join(tensor.shape, ","));
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile file(path.string());
  file.mapped_.emplace(path);
  file.parse(file.mapped_->bytes());
  return file;
}

SafetensorsFile SafetensorsFile::from_bytes(std::vector<std::byte> bytes, std::string what) {
  SafetensorsFile file(std::move(what));
  file.owned_ = std::move(bytes);
  file.parse(file.owned_);
  return file;
}

const Tensor* SafetensorsFile::find(std::string_view name) const {
  const auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const Tensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

void SafetensorsFile::parse(std::span<const std::byte> bytes) {
  if (bytes.size() < 8) bad_file(path_, "{} bytes are no safetensors file", bytes.size());
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint64_t>(bytes[static_cast<size_t>(i)]);
  if (length > bytes.size() - 8 || length > kMaxHeader)
    bad_file(path_, "a header of {} bytes in a file of {} (at most {} are read): truncated, or no safetensors file",
             length, bytes.size(), kMaxHeader);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  const std::span<const std::byte> data = bytes.subspan(8 + length);
  if (!text.starts_with('{')) bad_file(path_, "the header does not begin with an object: no safetensors file");

  const Json header = parse_json(text, path_ + ": header", kMaxHeaderDepth);
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__")
      metadata_ = parse_metadata(path_, value);
    else
      tensors_.push_back(parse_tensor(path_, name, value, data));
  }
  check_layout(path_, tensors_, data);
  std::sort(tensors_.begin(), tensors_.end(), [](const Tensor& x, const Tensor& y) { return x.name < y.name; });
  for (Tensor& tensor : tensors_) align(tensor);
}

// Headers need not be padded, so data may lie at odd addresses, where nothing wider than a byte may be read.
void SafetensorsFile::align(Tensor& tensor) {
  if (!tensor.type->dtype) return;
  const size_t alignment = size_of(*tensor.type->dtype);
  if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % alignment == 0) return;
  aligned_.push_back(std::make_unique_for_overwrite<std::byte[]>(tensor.bytes.size()));
  std::memcpy(aligned_.back().get(), tensor.bytes.data(), tensor.bytes.size());
  tensor.bytes = {aligned_.back().get(), tensor.bytes.size()};
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                                     const Metadata& metadata)
    : path_(path.string()) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& x, const TensorSpec& y) {
    return x.type->bits != y.type->bits ? x.type->bits > y.type->bits : x.name < y.name;
  });
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t end = 0;
  for (const TensorSpec& tensor : tensors) {
    const std::optional<uint64_t> size = dense_size(*tensor.type, tensor.shape);
    if (!size || tensor.name == "__metadata__" || !slots_.emplace(tensor.name, Slot{end, *size, false}).second)
      bad_file(path_, "tensor {}: a name used twice, or {} [{}] has no size", printable(tensor.name), tensor.type->name,
               fmt::join(tensor.shape, ","));
    header[tensor.name] = {{"dtype", tensor.type->name}, {"shape", tensor.shape}, {"data_offsets", {end, end + *size}}};
    end += *size;
  }
  // Metadata may come from a command line, so it need not be UTF-8.
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size(), data = 8 + length;
  std::string start(8, '\0');
  for (size_t i = 0; i < 8; ++i) start[i] = static_cast<char>(length >> (8 * i));
  start += text;
  for (auto& [name, slot] : slots_) slot.offset += data;
  file_.emplace(path, data + end);
  file_->write_at(0, std::as_bytes(std::span(start)));
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto it = slots_.find(name);
  if (it == slots_.end() || it->second.written || it->second.size != bytes.size())
    bad_file(path_, "tensor {}: {} bytes written, which the layout does not expect", printable(name), bytes.size());
  file_->write_at(it->second.offset, bytes);
  it->second.written = true;
}

void SafetensorsWriter::commit() {
  for (const auto& [name, slot] : slots_)
    if (!slot.written) bad_file(path_, "tensor {} was never written", printable(name));
  file_->commit();
}

}  // namespace samebits
