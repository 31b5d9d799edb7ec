// The proof over all layers and Orders: checks, the loop, the totals and the digest. Called by `samebits verify`.
#include "samebits/verify.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/verify_layer.h"
#include "numerics/float_env.h"
#include "samebits/quantize.h"

namespace samebits {
namespace {

static_assert(std::endian::native == std::endian::little, "the digest hashes memory as it lies");

void check_scales(const VerifyLayer& layer, std::span<const float> scales, std::string_view what) {
  for (size_t i = 0; i < scales.size(); ++i)
    if (!std::isfinite(scales[i]))
      throw Error(ErrorCode::kBadInput, fmt::format("{}: {} {} is {}", layer.name, what, i, scales[i]));
}

void check_layer(const VerifyLayer& layer) {
  const ConstView& w = layer.weight;
  const auto refuse = [&](const std::string& why) { throw Error(ErrorCode::kBadInput, layer.name + ": " + why); };
  if (!w || w.rows <= 0 || w.cols <= 0) refuse(fmt::format("the weight is empty, [{},{}]", w.rows, w.cols));
  if (w.dtype != Dtype::kE4m3 || w.col_stride != 1)
    refuse(fmt::format("the weight is {} with column stride {}; verify takes e4m3 with stride 1", name(w.dtype),
                       w.col_stride));
  const auto blocks = static_cast<size_t>(weight_scales(Granularity::kPerBlock, w.rows, w.cols));
  if (layer.blocks && layer.weight_scale.size() != blocks)
    refuse(fmt::format("{} weight scales for {} blocks", layer.weight_scale.size(), blocks));
  if (layer.blocks && !layer.input_scale.empty()) refuse("block scales with a static input scale");
  if (!layer.blocks && layer.weight_scale.size() != 1 && layer.weight_scale.size() != static_cast<size_t>(w.rows))
    refuse(fmt::format("{} weight scales for {} channels", layer.weight_scale.size(), w.rows));
  if (layer.input_scale.size() > 1)
    refuse(fmt::format("{} input scales; there is one or none", layer.input_scale.size()));
  if (!layer.input_scale.empty() && layer.input_scale[0] == 0) refuse("the input scale is 0");
  check_scales(layer, layer.weight_scale, "weight scale");
  check_scales(layer, layer.input_scale, "input scale");
  if (layer.bias && (layer.bias.rows != 1 || layer.bias.cols != w.rows || size_of(layer.bias.dtype) == 1))
    refuse(fmt::format("the bias is [{},{}] {} for {} channels", layer.bias.rows, layer.bias.cols,
                       name(layer.bias.dtype), w.rows));
  const ConstView& x = layer.activations;
  if (x && (x.rows <= 0 || x.cols != w.cols || size_of(x.dtype) == 1))
    refuse(fmt::format("the activations are [{},{}] {}; K is {}", x.rows, x.cols, name(x.dtype), w.cols));
}

/// Of one row.
double multiply_adds(const VerifyLayer& layer) {
  return static_cast<double>(layer.weight.rows) * static_cast<double>(layer.weight.cols);
}

/// The dtypes asked for, bf16 before fp16: the digest hashes them in this order.
std::vector<Dtype> sorted_dtypes(const std::vector<Dtype>& asked) {
  std::vector<Dtype> dtypes;
  for (Dtype dtype : asked)
    if (dtype != Dtype::kBf16 && dtype != Dtype::kF16)
      throw Error(ErrorCode::kBadInput,
                  fmt::format("outputs in {} cannot be verified; there are: bf16, fp16", name(dtype)));
  for (Dtype dtype : {Dtype::kBf16, Dtype::kF16})
    if (std::find(asked.begin(), asked.end(), dtype) != asked.end()) dtypes.push_back(dtype);
  return dtypes;
}

std::vector<Order> unique_orders(const std::vector<Order>& asked) {
  std::vector<Order> orders;
  for (Order order : asked)
    if (std::find(orders.begin(), orders.end(), order) == orders.end()) orders.push_back(order);
  return orders;
}

/// Those that compute the layer's kind of scales.
std::vector<Order> orders_of(const VerifyLayer& layer, const std::vector<Order>& asked) {
  std::vector<Order> orders;
  for (Order order : asked)
    if ((spec(order).scale_block != 0) == layer.blocks) orders.push_back(order);
  if (orders.empty())
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: none of the orders asked for takes {}", layer.name,
                            layer.blocks ? "block scales; hopper-block128 does" : "a scale per tensor or channel"));
  return orders;
}

void check_batches(const std::vector<int64_t>& batches) {
  constexpr int64_t kMost = 1 << 16;
  for (int64_t m : batches)
    if (m < 1 || m > kMost)
      throw Error(ErrorCode::kBadInput, fmt::format("a batch of {} rows; 1 to {} can be verified", m, kMost));
}

void total(VerifyReport& report) {
  std::vector<uint64_t> digests;
  for (const VerifyResult& r : report.results) {
    report.compared += r.batches;
    report.compared += r.sample;
    report.sample += r.sample;
    report.control += r.control;
    digests.push_back(r.digest);
  }
  report.digest = XXH3_64bits(digests.data(), digests.size() * sizeof(uint64_t));
  const auto& results = report.results;
  const auto caught = [&](const VerifyResult& proved) {
    return std::any_of(results.begin(), results.end(),
                       [&](const VerifyResult& r) { return r.order == proved.order && r.control.differing > 0; });
  };
  report.control_caught = !results.empty() && std::all_of(results.begin(), results.end(), caught);
}

}  // namespace

std::vector<int64_t> default_batches(const DeviceInfo& device) {
  std::vector<int64_t> batches = {1, 2, 8, 16, 17, 32, 64, 65};
  if (!device.is_cpu()) batches.insert(batches.end(), {128, 256, 257, 1024});
  return batches;
}

VerifyReport verify(std::span<const VerifyLayer> layers, const VerifyOptions& options) {
  const FloatEnv env;
  std::vector<const VerifyLayer*> sorted;
  double work = 0, done = 0;
  for (const VerifyLayer& layer : layers) {
    check_layer(layer);
    if (!options.orders.empty()) orders_of(layer, options.orders);
    sorted.push_back(&layer);
    work += multiply_adds(layer);
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto* x, const auto* y) { return x->name < y->name; });

  VerifyReport report;
  const std::vector<Order> orders = unique_orders(options.orders);
  report.batches = options.batches.empty() ? default_batches(*options.device) : options.batches;
  check_batches(report.batches);
  report.dtypes = sorted_dtypes(options.dtypes);
  if (orders.empty() || report.dtypes.empty())
    throw Error(ErrorCode::kBadInput, "verify needs an order and an output dtype");
  report.sample_against = options.device->is_cpu() ? "scalar reference" : "CPU backend";

  const Place place(*options.device);
  uint64_t compared = 0;
  double share = 0;  // of the work, for one layer under one Order
  const auto advance = [&](std::string_view layer, Order order, double part, uint64_t outputs) {
    if (options.progress) options.progress({layer, order, (done + part * share) / work, compared + outputs});
  };
  const int64_t largest = *std::max_element(report.batches.begin(), report.batches.end());
  const ProofSetup setup{options, place, report.batches, report.dtypes, std::max(largest, kDigestRows), advance};
  try {
    for (const VerifyLayer* layer : sorted) {
      const std::vector<Order> mine = orders_of(*layer, orders);
      share = multiply_adds(*layer) / static_cast<double>(mine.size());
      LayerProof proof(*layer, setup);
      for (Order order : mine) {
        report.results.push_back(proof.prove(order));
        compared += report.results.back().batches.outputs + report.results.back().sample.outputs;
        done += share;
      }
    }
  } catch (const Cancelled&) {
    report.cancelled = true;
  }
  total(report);
  return report;
}

}  // namespace samebits
