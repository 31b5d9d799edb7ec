// One transformer layer without its attention, timed as one CUDA graph: norm + quantize, qkv, quantize, o, norm +
// quantize, gate_up, silu + quantize, down. Called by bench.cpp.
#pragma once
#include <array>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cli/bench_run.h"

namespace samebits::cli {

/// One side at one M.
struct LayerResult {
  std::string kernel;  ///< samebits, samebits-unfused, fixed-tile or cublaslt
  double us;           ///< microseconds a layer, median
  bool same_bits;      ///< the output has the bits of samebits' at the largest M
};

/// Throws Error(kBadInput) unless the model's shapes are qkv, o, gate_up and down of one layer that fits the memory.
void check_layer(const DeviceInfo& device, std::string_view model, int64_t max_m);

/// The weights and buffers of one layer of a known model; calls rotate through copies of the weights.
class BenchLayer {
 public:
  /// `model` has passed check_layer.
  BenchLayer(const Place& place, std::string_view model, int64_t max_m);
  int64_t weight_bytes() const;
  /// Times the sides of `order` at `m`:
  /// samebits: fused producers, dependent launches, the rows that choose() picks;
  /// samebits-unfused: norm or silu to bf16, then quantize, every launch plain, the same rows;
  /// fixed-tile: the same with the fixed tile; cublaslt: the same with its best suggestion for each linear.
  std::vector<LayerResult> run(Order order, int64_t m, const BenchOptions& options);

 private:
  enum Linear { kQkv, kO, kGateUp, kDown };
  static constexpr std::array kLinears = {kQkv, kO, kGateUp, kDown};
  using Call = std::function<void(Linear linear, int copy)>;
  struct Weight {
    Shape shape;
    Memory codes, scales;
  };
  struct Side {
    std::string kernel;
    Enqueue enqueue;
  };

  View bf16(const Memory& memory, int64_t m, int64_t cols) const;
  GemmProblem problem(Order order, int64_t m, Linear linear, int copy) const;
  void enqueue(int64_t m, int copy, bool fused, const Launch& producer, const Call& call) const;
  Call rows(Order order, int64_t m, Overlap overlap) const;
  Call fixed_tiles(int64_t m) const;
  Call cublaslt(Order order, int64_t m, const CublasLt& library);
  const Memory& reference(Order order);

  const Place& place_;
  int64_t max_m_;
  int copies_;
  std::array<Weight, 4> weights_;
  std::array<Memory, 4> outputs_;  // of the linears, bf16
  Memory x_, residual_, attention_, norm_weight_, hidden_, unquantized_, quantized_, scales_, workspace_;
  Launch launch_;
  std::map<Order, Memory> references_;
};

}  // namespace samebits::cli
