// The parts of a proof (samebits/prove.h): the data of its cases, one run of a row, and the probes of the matrix unit.
// Shared by prove.cpp, prove_cases.cpp and prove_unit.cpp.
#pragma once
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "samebits/prove.h"

namespace samebits {

/// One problem in host memory. Strides may exceed K: the padding holds NaN codes, which nobody may read.
struct ProofCase {
  std::string what;
  int64_t m, n, k, a_stride, b_stride, out_stride;
  Dtype a_dtype, b_dtype;                     // e4m3; or 16-bit, and b e4m3 or as a
  std::vector<uint16_t> a, b;                 // codes
  std::vector<float> scale_a, scale_b, bias;  // a scale that is absent is empty
  Dtype half;                                 ///< what the rows write that do not write fp32
  bool tokens_adjacent = false;               ///< scale_a in blocks: those of one block lie side by side

  /// Whether the weight is FP8 beside 16-bit activations. Rows that do not take it so get the same weight widened.
  bool weight_only() const { return size_of(a_dtype) == 2 && b_dtype == Dtype::kE4m3; }
};

/// The sign of a code.
constexpr uint16_t sign_bit(Dtype dtype) { return size_of(dtype) == 1 ? 0x80 : 0x8000; }

/// The cases of one round for one Order: the same on every machine.
std::vector<ProofCase> proof_cases(int round, Order order);

/// The `count` cases of such a weight with the most work, each of another shape: what short kernels do on streams at
/// once is to follow each other.
std::vector<const ProofCase*> largest_cases(const std::vector<ProofCase>& cases, bool weight_only, size_t count);

/// The pool of the M sweep: 257 rows, each of which is computed alone and in batches.
ProofCase sweep_case(int round, Order order, bool weight_only);
/// The same of m rows and a weight [n,k].
ProofCase sweep_case(int round, Order order, bool weight_only, int64_t m, int64_t n, int64_t k);
/// Batches of a pool, as {first row, rows}: of these sizes, as far as it has the rows.
std::vector<std::pair<int64_t, int64_t>> sweep_batches(int round, std::span<const int64_t> sizes, int64_t pool);
/// The sizes of the small weight's batches, at the edges of every tile, and of the seed's, around vLLM's.
inline constexpr int64_t kSweepSizes[] = {1,  2,  3,  7,  8,   9,   15,  16,  17,  31,  32,  33, 47,
                                          63, 64, 65, 96, 100, 127, 128, 129, 192, 255, 256, 257};
inline constexpr int64_t kSeedSizes[] = {1, 16, 17, 64, 65, 256, 257};
/// The sweep's pool with data whose sums are not exact in FP32, and no bias: the control computes it in two parts.
ProofCase control_case(Order order, bool weight_only);

/// Rows of memory behind every output, which nobody may write: a tile that does not end with the rows ends in them.
inline constexpr int64_t kGuardRows = 8;
/// What every byte of an output's memory is before a row runs.
inline constexpr uint8_t kUntouched = 0xa5;

/// A case on the device under proof.
class OnPlace {
 public:
  OnPlace(const Place& place, const ProofCase& c, Dtype out);
  /// The rows [first, first + count) of the problem as `row` takes it, writing into `out`, which must have room for
  /// them.
  GemmProblem problem(const ProofRow& row, Memory& out, int64_t first = 0, int64_t count = -1) const;
  /// Room for the output of the whole case and the guard rows, filled with kUntouched.
  Memory output() const;
  /// The same as a sound row leaves it: the outputs `rows`, which lie in host memory, and the rest untouched.
  Memory output(const ConstView& rows) const;

 private:
  const ProofCase& case_;
  const Place& place_;
  Dtype out_;
  Memory a_, b_, scale_a_, scale_b_, bias_;
  Memory widened_;  // b in the dtype of a, of a weight-only case
};

/// What is in the memory.
std::vector<std::byte> bytes_of(const Memory& memory);

/// The unit's behaviour, seen through the row.
UnitBehaviour probe_unit(const Place& place, const ProofRow& row);

}  // namespace samebits
