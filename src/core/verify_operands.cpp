// The operands of a layer under proof: checked, padded once to what a kernel takes, and the pool of activation rows.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/choose.h"
#include "core/generator.h"
#include "core/verify_layer.h"
#include "numerics/formats.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

int64_t padded(const Place& place, int64_t extent) {
  return place.is_cpu() ? extent : (extent + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

LayerProof::LayerProof(const VerifyLayer& layer, const ProofSetup& setup)
    : layer_(layer),
      setup_(setup),
      place_(setup.place),
      n_(layer.weight.rows),
      k_(layer.weight.cols),
      n_padded_(padded(place_, n_)),
      k_padded_(padded(place_, k_)),
      compare_(place_) {
  make_activations();
  upload_weight(layer_.weight, weight_);
  b_ = place_.is_cpu() ? layer_.weight : ConstView(weight_.data(), Dtype::kE4m3, n_padded_, k_padded_);
  const size_t out_bytes = static_cast<size_t>(setup_.pool_rows * n_padded_) * size_of(Dtype::kBf16);
  out_ = Memory(place_, out_bytes);
  alone_ = Memory(place_, out_bytes);
}

void LayerProof::make_activations() {
  const int64_t rows = setup_.pool_rows;
  if (!layer_.activations) {
    activations_ =
        generate_activations(generator_key(setup_.options.seed, layer_.name), rows, k_, setup_.options.threads);
    return;
  }
  const ConstView& given = layer_.activations;
  activations_.resize(static_cast<size_t>(rows * k_));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t col = 0; col < k_; ++col)
      activations_[static_cast<size_t>(row * k_ + col)] = load(given.dtype, given.at(row % given.rows, col));
}

// FP8 Orders: quantized activations, one pool for every output. 16-bit Orders: activations in the dtype under proof,
// and the weight as it is and widened, which are one definition.
void LayerProof::load_operands(Order order, Dtype dtype) {
  const bool half = spec(order).operands == Operands::kHalf;
  const Dtype wanted = half ? dtype : Dtype::kE4m3;
  if (pool_dtype_ == wanted) return;
  place_.synchronize();
  pool_dtype_ = wanted;
  pool_.assign(static_cast<size_t>(setup_.pool_rows * k_padded_) * size_of(wanted), std::byte{0});
  pool_scale_.clear();
  if (half)
    cast_pool();
  else
    quantize_pool();
  a_ = Memory(place_, 2 * pool_.size());
  a_.upload(pool_.data(), pool_.size());
  a_.upload(pool_.data(), pool_.size(), pool_.size());
  upload_scales();
}

void LayerProof::quantize_pool() {
  Launch cpu;
  cpu.threads = setup_.options.threads;
  const ConstView from(activations_.data(), Dtype::kF32, setup_.pool_rows, k_);
  const View to(pool_.data(), Dtype::kE4m3, setup_.pool_rows, k_padded_);
  if (layer_.blocks) {
    const int64_t groups = groups_along(k_);
    pool_scale_.resize(static_cast<size_t>(setup_.pool_rows * groups));
    quantize_per_group(from, to, {View(pool_scale_.data(), Dtype::kF32, setup_.pool_rows, groups)}, cpu);
  } else if (layer_.input_scale.empty()) {
    pool_scale_.resize(static_cast<size_t>(setup_.pool_rows));
    quantize_per_token(from, to, pool_scale_.data(), nullptr, cpu);
  } else {
    pool_scale_ = {layer_.input_scale[0]};
    quantize_static(from, pool_scale_.data(), to, cpu);
  }
}

void LayerProof::cast_pool() {
  const View to(pool_.data(), pool_dtype_, setup_.pool_rows, k_padded_);
  for (int64_t row = 0; row < setup_.pool_rows; ++row)
    for (int64_t col = 0; col < k_; ++col)
      store(pool_dtype_, to.at(row, col), activations_[static_cast<size_t>(row * k_ + col)]);
  if (place_.is_cpu()) return;  // the CPU backend widens the weight
  const ConstView& w = layer_.weight;
  std::vector<uint16_t> wide(static_cast<size_t>(n_ * k_));
  for (int64_t row = 0; row < n_; ++row)
    for (int64_t col = 0; col < k_; ++col)
      store(pool_dtype_, &wide[static_cast<size_t>(row * k_ + col)], load(w.dtype, w.at(row, col)));
  upload_weight(ConstView(wide.data(), pool_dtype_, n_, k_), widened_);
  wide_ = ConstView(widened_.data(), pool_dtype_, n_padded_, k_padded_);
}

void LayerProof::upload_weight(const ConstView& w, Memory& to) const {
  if (place_.is_cpu()) return;  // read where it lies
  const size_t element = size_of(w.dtype), bytes = static_cast<size_t>(n_padded_ * k_padded_) * element;
  to = Memory(place_, bytes);
  if (n_ == n_padded_ && w.row_stride == k_padded_) return to.upload(w.data, bytes);
  std::vector<std::byte> staged(bytes);
  const View padded(staged.data(), w.dtype, n_padded_, k_padded_);
  for (int64_t row = 0; row < n_; ++row)
    std::memcpy(padded.at(row, 0), w.at(row, 0), static_cast<size_t>(k_) * element);
  to.upload(staged.data(), bytes);
}

void LayerProof::upload_scales() {
  if (!pool_scale_.empty()) {
    std::vector<float> scale_a = pool_scale_;
    if (scale_a.size() > 1 || layer_.blocks) scale_a.insert(scale_a.end(), pool_scale_.begin(), pool_scale_.end());
    scale_a_ = Memory(place_, scale_a.size() * sizeof(float));
    scale_a_.upload(scale_a.data(), scale_a.size() * sizeof(float));
  }
  std::vector<float> scale_b(layer_.weight_scale.begin(), layer_.weight_scale.end());
  if (!layer_.blocks && scale_b.size() > 1) scale_b.resize(static_cast<size_t>(n_padded_), 1.0f);
  scale_b_ = Memory(place_, scale_b.size() * sizeof(float));
  scale_b_.upload(scale_b.data(), scale_b.size() * sizeof(float));
}

// Padding to kAlignment starts no new block.
Scales LayerProof::token_scales(const float* data, int64_t first_row, int64_t count) const {
  const int64_t groups = groups_along(k_);
  if (layer_.blocks) return Scales::blocks(data + first_row * groups, count, groups);
  return layer_.input_scale.empty() ? Scales::per_row(data + first_row, count) : Scales::per_tensor(data);
}

Scales LayerProof::channel_scales(const float* data, int64_t channels) const {
  if (layer_.blocks) return Scales::blocks(data, groups_along(n_), groups_along(k_));
  return layer_.weight_scale.size() == 1 ? Scales::per_tensor(data) : Scales::per_row(data, channels);
}

void LayerProof::load_bias(Dtype dtype) {
  if (!layer_.bias) return;
  bias_host_.assign(static_cast<size_t>(n_padded_), 0);
  for (int64_t col = 0; col < n_; ++col)
    store(dtype, &bias_host_[static_cast<size_t>(col)], load(layer_.bias.dtype, layer_.bias.at(0, col)));
  const size_t bytes = bias_host_.size() * sizeof(uint16_t);
  if (bias_.size() != bytes) bias_ = Memory(place_, bytes);
  bias_.upload(bias_host_.data(), bytes);
}

}  // namespace samebits
