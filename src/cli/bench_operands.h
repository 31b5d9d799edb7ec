// What `samebits bench` multiplies: random e4m3 operands of one weight shape, and the bounds of memory for them.
#pragma once
#include "core/memory.h"
#include "core/shapes.h"
#include "samebits/gemm.h"

namespace samebits::cli {

/// How the scales of a problem lie: one per token and per channel, or one a tensor.
enum class ScaleKind { kPerRow, kPerTensor };

/// The operands of a shape, bf16 out. On a GPU the weight exists in as many copies as it takes to pass the L2 cache.
class Operands {
 public:
  Operands(const Place& place, Shape shape, int64_t max_m);
  /// Rows [0, m) of the tokens times copy `copy` of the weight (all copies hold the same codes), written to `out`
  /// [m,N].
  GemmProblem problem(Order order, int64_t m, int copy, void* out, ScaleKind scales = ScaleKind::kPerRow) const;
  int copies() const { return copies_; }
  Shape shape() const { return shape_; }

 private:
  Shape shape_;
  int64_t max_m_;
  int copies_;
  Memory a_, b_, scale_a_, scale_b_;
};

/// How many copies of `weight_bytes` are more than the L2 cache holds; 1 on the CPU.
int copies_past_l2(const DeviceInfo& device, int64_t weight_bytes);

/// `bytes` random e4m3 codes, `copies` times over. Different streams have different codes.
enum class CodeStream { kTokens, kWeights };
Memory random_codes(const Place& place, CodeStream stream, size_t bytes, int copies = 1);

/// `count` random bf16 values, about normal, standard deviation 1.
Memory random_bf16(const Place& place, size_t count, uint64_t key);

/// `count` FP32 scales of 0.001 to 0.011.
Memory random_scales(const Place& place, int64_t count, uint64_t key);

/// Workspace for cuBLASLt, in bytes; our rows ask for less.
inline constexpr int64_t kWorkspaceBytes = 64 << 20;

/// A plain launch on the place's stream with `workspace`, which is allocated here (not on the CPU).
Launch plain_launch(const Place& place, Memory& workspace);

/// Throws Error(kBadInput) with the numbers if the operands of a shape and the outputs of all sides do not fit the
/// device's memory.
void check_memory(const DeviceInfo& device, Shape shape, int64_t max_m);

}  // namespace samebits::cli
