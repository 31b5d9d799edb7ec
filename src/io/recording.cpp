// Recordings as safetensors files: tensors call.<i>.{a,b,scale_a,scale_b,bias,out}, the rest in the metadata.
#include "io/recording.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cstring>
#include <initializer_list>
#include <set>

#include "io/json.h"

namespace samebits {
namespace {

const std::string& required(const SafetensorsFile& file, const std::string& name) {
  const auto it = file.metadata().find(name);
  if (it == file.metadata().end()) bad_file(file.path(), "not a recording: no {} in the metadata", name);
  return it->second;
}

// Reads the tensors of one call and says which of them were used.
class CallReader {
 public:
  CallReader(const SafetensorsFile& file, size_t index, int version, std::set<std::string_view>& used)
      : file_(file), prefix_(fmt::format("call.{}.", index)), version_(version), used_(used) {}

  RecordedCall read() {
    RecordedCall call;
    call.order = order();
    if (spec(call.order).operands == Operands::kHalf) {
      call.a = matrix("a", {Dtype::kBf16, Dtype::kF16});
      call.b = matrix("b", {call.a.dtype, Dtype::kE4m3});
    } else {
      call.a = matrix("a", {Dtype::kE4m3, Dtype::kE5m2});
      call.b = matrix("b", {Dtype::kE4m3, Dtype::kE5m2});
    }
    if (version_ == 1 && (call.a.dtype != Dtype::kE4m3 || call.b.dtype != Dtype::kE4m3))
      bad_file(file_.path(), "{}a and b: version 1 has F8_E4M3 operands", prefix_);
    if (call.a.cols != call.b.cols || call.a.cols == 0)
      bad_file(file_.path(), "{}a is [{},{}] and {}b is [{},{}]: K must be the same and not 0", prefix_, call.a.rows,
               call.a.cols, prefix_, call.b.rows, call.b.cols);
    const int64_t m = call.a.rows, n = call.b.rows;
    call.scale_a = scales("scale_a", m, false);
    call.scale_b = scales("scale_b", n, true);
    if (file_.find(prefix_ + "bias")) call.bias = bias(n);
    call.out = matrix("out", {Dtype::kF32, Dtype::kBf16, Dtype::kF16});
    if (call.out.rows != m || call.out.cols != n)
      bad_file(file_.path(), "{}out is [{},{}], not [{},{}]", prefix_, call.out.rows, call.out.cols, m, n);
    return call;
  }

 private:
  Order order() const {
    if (version_ == 2) {
      const std::string& text = required(file_, prefix_ + "order");
      try {
        return parse_order(text);
      } catch (const Error& e) {
        bad_file(file_.path(), "{}order: {}", prefix_, e.what());
      }
    }
    const std::string& text = required(file_, prefix_ + "accumulation");
    if (text != "fast" && text != "promoted")
      bad_file(file_.path(), "{}accumulation is {}, not fast or promoted", prefix_, printable(text));
    return text == "fast" ? Order::kHopperFast : Order::kHopperPromoted;
  }

  const Tensor& tensor(const char* name, std::initializer_list<Dtype> dtypes) {
    const Tensor* found = file_.find(prefix_ + name);
    if (!found) bad_file(file_.path(), "{}{} is missing", prefix_, name);
    bool taken = false;
    for (Dtype dtype : dtypes) taken |= found->is(dtype);
    if (!taken) bad_file(file_.path(), "{}{} is {}: a dtype that no order takes here", prefix_, name, describe(*found));
    used_.insert(found->name);
    return *found;
  }

  ConstView matrix(const char* name, std::initializer_list<Dtype> dtypes) {
    const Tensor& t = tensor(name, dtypes);
    if (t.shape.size() != 2) bad_file(file_.path(), "{}{} is {}, not a matrix", prefix_, name, describe(t));
    return ConstView(t.bytes.data(), *t.type->dtype, t.shape[0], t.shape[1]);
  }

  // [1], [count], [count,1], and for scale_b also [1,count].
  Scales scales(const char* name, int64_t count, bool row_vector) {
    const Tensor& t = tensor(name, {Dtype::kF32});
    const std::vector<int64_t>& shape = t.shape;
    const float* data = reinterpret_cast<const float*>(t.bytes.data());
    if (shape.size() <= 2 && t.elements() == 1) return Scales::per_tensor(data);
    const bool vector = shape == std::vector{count} || shape == std::vector{count, int64_t{1}} ||
                        (row_vector && shape == std::vector{int64_t{1}, count});
    if (!vector)
      bad_file(file_.path(), "{}{} is {}: neither one scale nor {}, and no order of this version takes block scales",
               prefix_, name, describe(t), count);
    return Scales::per_row(data, count);
  }

  ConstView bias(int64_t n) {
    const Tensor& t = tensor("bias", {Dtype::kF32, Dtype::kBf16, Dtype::kF16});
    if (t.shape != std::vector{n} && t.shape != std::vector{int64_t{1}, n})
      bad_file(file_.path(), "{}bias is {}, not [{}]", prefix_, describe(t), n);
    return ConstView(t.bytes.data(), *t.type->dtype, 1, n);
  }

  const SafetensorsFile& file_;
  std::string prefix_;
  int version_;
  std::set<std::string_view>& used_;
};

std::vector<std::byte> dense(const ConstView& v) {
  const size_t size = size_of(v.dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(v.rows * v.cols) * size);
  std::byte* to = bytes.data();
  for (int64_t r = 0; r < v.rows; ++r)
    for (int64_t c = 0; c < v.cols; ++c, to += size) std::memcpy(to, v.at(r, c), size);
  return bytes;
}

// Scales as the FP32 column that the file holds.
ConstView column(const Scales& s) {
  return s.is_per_tensor() ? ConstView(s.data, Dtype::kF32, 1, 1)
                           : ConstView(s.data, Dtype::kF32, s.rows, s.cols, s.row_stride, s.col_stride);
}

}  // namespace

Recording Recording::open(const std::filesystem::path& path) { return from(SafetensorsFile::open(path)); }

Recording Recording::from(SafetensorsFile file) {
  Recording recording(std::move(file));
  const SafetensorsFile& f = recording.file_;
  if (required(f, "format") != "samebits-recording")
    bad_file(f.path(), "not a recording: format is {}", printable(required(f, "format")));
  const std::string& version = required(f, "version");
  if (version != "1" && version != "2")
    bad_file(f.path(), "recording version {}; 1 and 2 are read", printable(version));
  recording.version_ = version[0] - '0';

  const std::string& text = required(f, "calls");
  size_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count > f.tensors().size())
    bad_file(f.path(), "calls is {} with {} tensors in the file", printable(text), f.tensors().size());

  std::set<std::string_view> used;
  for (size_t i = 0; i < count; ++i) recording.calls_.push_back(CallReader(f, i, recording.version_, used).read());
  for (const Tensor& tensor : f.tensors())
    if (!used.contains(tensor.name))
      bad_file(f.path(), "tensor {} belongs to none of the {} calls", printable(tensor.name), count);
  return recording;
}

void write_recording(const std::filesystem::path& path, std::span<const RecordedCall> calls, Metadata metadata) {
  metadata["format"] = "samebits-recording";
  metadata["version"] = "2";
  metadata["calls"] = std::to_string(calls.size());
  std::vector<TensorSpec> specs;
  std::vector<std::pair<std::string, ConstView>> views;
  for (size_t i = 0; i < calls.size(); ++i) {
    const RecordedCall& call = calls[i];
    const std::string prefix = fmt::format("call.{}.", i);
    metadata[prefix + "order"] = name(call.order);
    const auto add = [&](const char* tensor, const ConstView& v, std::vector<int64_t> shape) {
      specs.push_back({prefix + tensor, &tensor_type(v.dtype), std::move(shape)});
      views.emplace_back(prefix + tensor, v);
    };
    add("a", call.a, {call.a.rows, call.a.cols});
    add("b", call.b, {call.b.rows, call.b.cols});
    for (const auto& [tensor, scales] : {std::pair("scale_a", call.scale_a), std::pair("scale_b", call.scale_b)})
      add(tensor, column(scales),
          scales.is_per_tensor() ? std::vector<int64_t>{1} : std::vector{scales.rows, scales.cols});
    if (call.bias) add("bias", call.bias, {call.bias.cols});
    add("out", call.out, {call.out.rows, call.out.cols});
  }
  SafetensorsWriter writer(path, std::move(specs), metadata);
  for (const auto& [tensor, view] : views) writer.write(tensor, dense(view));
  writer.commit();
}

}  // namespace samebits
