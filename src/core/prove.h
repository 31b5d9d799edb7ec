// The parts of a proof (samebits/prove.h): the data of its cases, one run of a row, and the probes of the matrix unit.
// Shared by prove.cpp, prove_cases.cpp and prove_unit.cpp.
#pragma once
#include <string>
#include <vector>

#include "core/memory.h"
#include "samebits/prove.h"

namespace samebits {

/// Whether a proof covers the row: FP8 operands. Rows of 16-bit operands exist on Hopper alone, where the tests prove
/// them.
constexpr bool provable(const Tile& tile) {
  return spec(tile.order).operands == Operands::kFp8 && spec(tile.order).scale_block == 0;
}

/// One problem in host memory. Strides may exceed K: the padding holds NaN codes, which nobody may read.
struct ProofCase {
  std::string what;
  int64_t m, n, k, a_stride, b_stride, out_stride;
  std::vector<uint8_t> a, b;  // e4m3 codes
  std::vector<float> scale_a, scale_b, bias;
  Dtype half;  ///< what the rows write that do not write fp32
};

/// The cases of one round for one Order: the same on every machine.
std::vector<ProofCase> proof_cases(int round, Order order);

/// The pool of the M sweep: 257 rows, each of which is computed alone and in batches.
ProofCase sweep_case(int round, Order order);
/// Batches of the sweep, as {first row, rows}.
std::vector<std::pair<int64_t, int64_t>> sweep_batches(int round);

/// A case on the device under proof.
class OnPlace {
 public:
  OnPlace(const Place& place, const ProofCase& c, Dtype out);
  /// The rows [first, first + count) of the problem, writing into `out`, which must have room for them.
  GemmProblem problem(Order order, Memory& out, int64_t first = 0, int64_t count = -1) const;
  /// Room for the output of the whole case, filled with 0xa5.
  Memory output() const;
  int64_t out_stride() const { return case_.out_stride; }

 private:
  const ProofCase& case_;
  const Place& place_;
  Dtype out_;
  Memory a_, b_, scale_a_, scale_b_, bias_;
};

/// The unit's behaviour, seen through the row.
UnitBehaviour probe_unit(const Place& place, const ProofRow& row);

}  // namespace samebits
