// One layer on the device under proof: its operands, the pool of activation rows and what is compared. Called by
// verify().
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/memory.h"
#include "samebits/verify.h"

namespace samebits {

/// What all layers of a run share.
struct ProofSetup {
  const VerifyOptions& options;
  const Place& place;
  std::vector<int64_t> batches;
  std::vector<Dtype> dtypes;
  int64_t pool_rows;  ///< the largest batch, and at least the digest's rows
  std::function<void(std::string_view layer, Order order, double part, uint64_t outputs)> advance;
};

/// Pool rows that the digest, the sample and the control are made of.
inline constexpr int64_t kDigestRows = 8;

/// Thrown out of a proof when options.cancel is set; caught by verify().
struct Cancelled {};

/// Windows of the pool that put pool row 0 first, in the middle and last in a batch of m rows: their positions.
std::vector<int64_t> positions(int64_t m);

class LayerProof {
 public:
  /// Uploads the layer and makes its pool.
  LayerProof(const VerifyLayer& layer, const ProofSetup& setup);
  VerifyResult prove(Order order);

 private:
  void load_operands(Order order, Dtype dtype);
  void make_activations();
  void quantize_pool();
  void cast_pool();
  void upload_weight(const ConstView& weight, Memory& to) const;
  void upload_scales();
  // Scales of activation rows, and of the weight, as the kernels take them.
  Scales token_scales(const float* data, int64_t first_row, int64_t count) const;
  Scales channel_scales(const float* data, int64_t channels) const;
  void load_bias(Dtype dtype);
  Plan plan(Order order, int64_t m, Dtype dtype, bool weight_only) const;
  Plan plan_alone(Order order, Dtype dtype) const;
  std::vector<Plan> plans(Order order, int64_t m, Dtype dtype) const;
  GemmProblem problem(const Plan& plan, Order order, int64_t first_row, int64_t m, View out) const;
  View output(const Memory& memory, Dtype dtype, int64_t rows) const;
  void run(const GemmProblem& problem, const Plan& plan, bool under_proof);
  void compute_alone(Order order, Dtype dtype, VerifyResult& result);
  void compare_batches(Order order, Dtype dtype, VerifyResult& result);
  void explain(const cuda::Difference& difference, Dtype dtype, int64_t m, int64_t position, std::string_view kernel,
               VerifyResult& result) const;
  std::vector<std::byte> download_alone(Dtype dtype) const;
  GemmProblem sample_problem(Order order, View out) const;
  void compare_sample(Order order, Dtype dtype, const std::vector<std::byte>& alone, VerifyResult& result) const;
  std::vector<float> split_accumulators(Order order);
  std::vector<float> split_blocks(Order order) const;
  void compare_control(Dtype dtype, const std::vector<float>& accumulators, VerifyResult& result);
  void advance(int64_t rows, const VerifyResult& result);

  const VerifyLayer& layer_;
  const ProofSetup& setup_;
  const Place& place_;
  int64_t n_, k_;                   // of the layer
  int64_t n_padded_, k_padded_;     // as a GPU kernel takes them
  std::vector<float> activations_;  // [pool_rows, k]
  std::vector<std::byte> pool_;  // [pool_rows, k_padded] in pool_dtype_: e4m3, or the dtype under proof (16-bit Orders)
  Dtype pool_dtype_ = Dtype::kF32;  // fp32: not made yet
  std::vector<float> pool_scale_;  // pool_rows values, 1 when static, [pool_rows, k_blocks] with block scales, none for
                                   // a pool that is not FP8
  std::vector<uint16_t> bias_host_;  // n_padded values in the dtype under proof, or none
  Memory a_, scale_a_;               // the pool twice, so that every rotation is one window
  Memory weight_, widened_, scale_b_, bias_;
  ConstView b_, wide_;  // the e4m3 weight, and for rows that do not widen it a copy in pool_dtype_
  Memory out_, alone_;  // [pool_rows, n_padded]
  Memory workspace_;
  Comparison compare_;
  int64_t rows_done_ = 0, rows_total_ = 1;
};

}  // namespace samebits
