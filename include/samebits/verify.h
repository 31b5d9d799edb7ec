// The proof: every output row of a linear layer has the same bits in every batch. Called by `samebits verify`; a
// program that owns its weights calls verify() itself.
#pragma once
#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "samebits/gemm.h"
#include "samebits/types.h"

namespace samebits {

/// One FP8 linear layer in host memory. Views stay the caller's.
///
/// Activations, unless given, are defined by integers alone. mix(z) is splitmix64's output function; key =
/// mix(seed + XXH3-64(name)); z(row, col) = mix(key + 0x9e3779b97f4a7c15 * (row * K + col + 1)); the element is the sum
/// of the four 16-bit fields of z, minus 131070, times 2^-15 (about normal, standard deviation 1.15), times 64 in the
/// columns where mix(key ^ ~col) % 512 == 0, else times 16 where it is 0 modulo 64 (outlier channels). Exact in FP32.
/// The rows are then quantized by the contract's formulas: per token, static where the layer has an input scale, or in
/// groups of 128 where the weight has block scales.
/// Under a 16-bit Order they are cast to the dtype of the output instead, and no input scale is used.
struct VerifyLayer {
  std::string name;
  ConstView weight;                     ///< [N,K] e4m3
  std::span<const float> weight_scale;  ///< 1 or N values, or those of `blocks`
  std::span<const float> input_scale;   ///< none: dynamic per token; 1 value: static
  ConstView bias;                       ///< [1,N] or empty; rounded once to the dtype of the output, as models load it
  ConstView activations;                ///< [M,K] bf16, fp16 or fp32, or empty: generated. Pool row i is row i % M.
  bool blocks = false;                  ///< weight_scale is [ceil(N/128), ceil(K/128)], row-major
};

/// How far a run is.
struct VerifyProgress {
  std::string_view layer;
  Order order;
  double fraction;   ///< of the multiply-adds of the whole run
  uint64_t outputs;  ///< compared so far
};

/// A schedule under proof: computes `problem`, which choose() would give to `plan`.
using Schedule = std::function<void(const GemmProblem& problem, const Plan& plan, const Launch& launch)>;

struct VerifyOptions {
  /// Each layer is proved under those with its kind of scales: hopper-block128 for blocks, the others without.
  std::vector<Order> orders = {Order::kHopperFast, Order::kHopperPromoted, Order::kHopperBlock128};
  std::vector<Dtype> dtypes = {Dtype::kBf16, Dtype::kF16};
  const DeviceInfo* device = &cpu_device();
  std::vector<int64_t> batches;    ///< empty: default_batches(*device)
  bool all_kernels = false;        ///< every row of the tables that can run, not only those that choose() picks
  const RuleSet* rules = nullptr;  ///< asked by choose() first
  uint64_t seed = 0;
  int threads = 0;    ///< CPU threads; 0: all
  Schedule schedule;  ///< empty: the library's gemm. Only the outputs under proof go through it.
  std::function<void(const VerifyProgress&)> progress;  ///< called from the caller's thread
  const std::atomic<bool>* cancel = nullptr;            ///< set it from anywhere, a signal handler too
};

/// 1, 2, 8, 16, 17, 32, 64, 65 and, on a GPU, 128, 256, 257, 1024.
std::vector<int64_t> default_batches(const DeviceInfo& device);

/// Where two runs of one output first differ.
struct FirstDifference {
  int64_t row;  ///< of the batch
  int64_t col;  ///< output channel
  Dtype dtype;
  uint32_t got;      ///< bits in the batch
  uint32_t want;     ///< bits of the same row alone
  int64_t ulps;      ///< their distance
  int64_t pool_row;  ///< the activation row
  int64_t batch;     ///< rows of the batch
  int64_t position;  ///< of pool row 0 in the batch
  std::string kernel;
  std::string against;  ///< "alone", or what the sample was compared with
};

/// A count of compared outputs.
struct Tally {
  uint64_t outputs = 0;
  uint64_t differing = 0;
  Tally& operator+=(const Tally& other) {
    outputs += other.outputs;
    differing += other.differing;
    return *this;
  }
};

/// One layer under one Order.
struct VerifyResult {
  std::string layer;
  int64_t n, k;
  Order order;
  Tally batches;  ///< every row of every batch against the same row alone
  Tally sample;   ///< rows alone on a GPU against the CPU backend; on the CPU against the scalar reference
  Tally control;  ///< a K-split schedule through the same comparison: it must differ
  std::optional<FirstDifference> first;
  uint64_t digest;  ///< XXH3-64 of the M = 1 outputs of pool rows 0..7, [8,N] row-major little-endian, bf16 then fp16
  std::vector<std::string> kernels;  ///< rows that ran, in order of first use
};

struct VerifyReport {
  std::vector<VerifyResult> results;  ///< layers in order of name, orders in the order asked
  std::vector<int64_t> batches;
  std::vector<Dtype> dtypes;   ///< bf16 before fp16
  std::string sample_against;  ///< "CPU backend" or "scalar reference"
  Tally compared;              ///< batches and samples of all results
  Tally sample;
  Tally control;
  bool control_caught = false;  ///< every Order saw its control differ
  uint64_t digest = 0;          ///< XXH3-64 of the results' digests, 8 bytes each, little-endian, in order
  bool cancelled = false;       ///< the results are of what was done before

  bool passed() const { return !cancelled && compared.outputs > 0 && compared.differing == 0 && control_caught; }
};

/// Proves `layers`. Every pool row is computed alone (M = 1), then each batch size m computes windows of the pool that
/// put pool row 0 first, in the middle and last, and every row of every window is compared with its bits alone.
/// Under a 16-bit Order the activations are in the output's dtype, and on a GPU rows that widen the FP8 weight and rows
/// that take it widened are compared with one another.
/// The digest depends on the weights, the seed, the dtypes and the contract: never on batches, device or threads.
/// NaN is compared like any other bits; check_values() of samebits/checkpoint.h refuses NaN weights by coordinate.
/// Throws Error on layers that no kernel or none of the orders takes and on device faults.
VerifyReport verify(std::span<const VerifyLayer> layers, const VerifyOptions& options = {});

}  // namespace samebits
