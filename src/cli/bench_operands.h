// What `samebits bench` multiplies: random operands of one weight shape, and the bounds of memory for them.
#pragma once
#include "core/memory.h"
#include "core/shapes.h"
#include "samebits/gemm.h"

namespace samebits::cli {

/// How the scales of a problem lie: one per token and per channel, or one a tensor.
enum class ScaleKind { kPerRow, kPerTensor };

/// The element types of tokens and weight.
struct Mix {
  Dtype a = Dtype::kE4m3, b = Dtype::kE4m3;
  bool weight_only() const { return a != b; }
  bool operator==(const Mix&) const = default;
};
/// e4m3, or bf16 for a 16-bit Order, with an e4m3 weight if that is asked for.
Mix mix_of(Order order, bool weight_only);

/// The operands of a shape, bf16 out. On a GPU the weight exists in as many copies as it takes to pass the L2 cache.
class Operands {
 public:
  Operands(const Place& place, Shape shape, int64_t max_m, Mix mix = {});
  /// Rows [0, m) of the tokens times copy `copy` of the weight (all copies hold the same codes), written to `out`
  /// [m,N].
  GemmProblem problem(Order order, int64_t m, int copy, void* out, ScaleKind scales = ScaleKind::kPerRow) const;
  int copies() const { return copies_; }
  Shape shape() const { return shape_; }
  Mix mix() const { return mix_; }
  int64_t weight_bytes() const { return shape_.n * shape_.k * static_cast<int64_t>(size_of(mix_.b)); }

 private:
  Shape shape_;
  Mix mix_;
  int64_t max_m_;
  int copies_;
  Memory a_, b_, scale_a_, scale_b_;
};

/// How many copies of `weight_bytes` are more than the L2 cache holds; 1 on the CPU.
int copies_past_l2(const DeviceInfo& device, int64_t weight_bytes);

/// `bytes` random e4m3 codes, `copies` times over. Different streams have different codes.
enum class CodeStream { kTokens, kWeights };
Memory random_codes(const Place& place, CodeStream stream, size_t bytes, int copies = 1);

/// `count` random bf16 values, about normal, standard deviation 1, `copies` times over.
Memory random_bf16(const Place& place, size_t count, uint64_t key, int copies = 1);

/// `count` FP32 scales of 0.001 to 0.011.
Memory random_scales(const Place& place, int64_t count, uint64_t key);

/// Workspace for cuBLASLt, in bytes; our rows ask for less.
inline constexpr int64_t kWorkspaceBytes = 64 << 20;

/// A plain launch on the place's stream with `workspace`, which is allocated here (not on the CPU).
Launch plain_launch(const Place& place, Memory& workspace);

/// Throws Error(kBadInput) with the numbers if the operands of a shape and the outputs of all sides do not fit the
/// device's memory.
void check_memory(const DeviceInfo& device, Shape shape, int64_t max_m, Mix mix = {});

}  // namespace samebits::cli
