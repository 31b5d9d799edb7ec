// One weight shape on one device, timed: every row of an Order, the row that choose() picks, the fixed tile and
// cuBLASLt, side by side. Called by bench.cpp.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "cli/cublaslt.h"
#include "core/memory.h"
#include "core/shapes.h"
#include "samebits/gemm.h"

namespace samebits::cli {

/// One kernel at one M.
struct BenchResult {
  std::string kernel;  ///< samebits, samebits:<row>, fixed-tile, cublaslt-outer, cublaslt-outer-slow
  std::string row;     ///< the row behind samebits and fixed-tile, else empty
  double us;           ///< microseconds a call, median
  bool same_bits;      ///< every output has the bits of the Order's first row at the largest M
};

/// What runs beside the rows.
struct BenchOptions {
  std::vector<std::string> rows;       ///< empty: every row of the Order
  const CublasLt* cublaslt = nullptr;  ///< null: not timed
  const RuleSet* rules = nullptr;      ///< asked by choose() first
  int rounds = 7;                      ///< replays of each side; they take turns, the median counts
};

/// The operands of a shape: per-token and per-channel scales, bf16 out. On a GPU the weight exists in as many copies as
/// it takes to pass the L2 cache, and calls rotate through them.
class BenchShape {
 public:
  BenchShape(const Place& place, Shape shape, int64_t max_m);
  /// Times all sides of `order`; rows are compared with rows [0, m) of the Order's output at max_m.
  std::vector<BenchResult> run(Order order, int64_t m, const BenchOptions& options);

 private:
  struct Side;
  GemmProblem problem(Order order, int64_t m, int copy, void* out) const;
  void make_reference(Order order);
  void add_rows(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides);
  void add_cublaslt(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides);
  void compare(int64_t m, std::vector<Side>& sides);
  void measure(int64_t m, int rounds, std::vector<Side>& sides);

  const Place& place_;
  Shape shape_;
  int64_t max_m_;
  int copies_;
  Memory a_, b_, scale_a_, scale_b_, out_, reference_, workspace_;
  Launch launch_;
  std::optional<Order> reference_order_;  // whose output reference_ holds
};

/// Throws Error(kBadInput) with the numbers if the operands of a BenchShape do not fit the device's memory.
void check_memory(const DeviceInfo& device, Shape shape, int64_t max_m);

/// The machine's own limits, measured like the rest: "ceiling-read" (2 GB once) and "ceiling-empty-kernel".
struct Ceiling {
  std::string kernel;
  double us;
  double gbps;  ///< 0 where there is none
};
std::vector<Ceiling> measure_ceilings(const Place& place);

}  // namespace samebits::cli
