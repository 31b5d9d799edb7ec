// One weight shape on one device, timed: rows of an Order, the row that choose() picks, the fixed tile and cuBLASLt,
// side by side. Called by bench.cpp.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_operands.h"
#include "cli/bench_timing.h"
#include "cli/cublaslt.h"

namespace samebits::cli {

/// One kernel at one M.
struct BenchResult {
  std::string kernel;  ///< samebits, samebits:<row>, fixed-tile, or a peer: cublaslt-outer, -outer-slow, -tensor, -bf16
  std::string row;     ///< the row behind samebits and fixed-tile, else empty
  double us = 0;       ///< microseconds a call, median
  bool same_bits = false;               ///< every output has the bits of the Order's fixed row at the largest M
  std::optional<Overlap> overlap = {};  ///< how a row was launched; nothing for a peer
  const Tile* tile = nullptr;           ///< of a row on a GPU; null for a peer
  std::optional<SplitK> split_k = {};   ///< of a peer's algorithm
  Dtype weight = Dtype::kE4m3;          ///< element type of the weight
  std::optional<bool> invariant = {};   ///< of a peer below the largest M: its own bits there are these too
};

/// What is timed, and how.
struct BenchOptions {
  bool every_row = true;               ///< every row of the Order
  std::vector<std::string> rows;       ///< else these, beside what choose() picks and the fixed tile
  Overlap overlap = Overlap::kWeight;  ///< of our kernels; the fixed tile starts plainly, as vLLM's does
  const CublasLt* cublaslt = nullptr;  ///< null: not timed
  int rounds = 7;                      ///< replays of each side; they take turns, the median counts
  const RuleSet* rules = nullptr;      ///< asked by choose() first
};

/// The fixed tile of vLLM's batch-invariant mode for a weight of N channels (PR #40408): a row of hopper-fast.
std::string_view fixed_tile(int64_t n);

/// A shape with its operands and outputs; calls rotate through the copies of the weight.
class BenchShape {
 public:
  BenchShape(const Place& place, Shape shape, int64_t max_m, Mix mix = {});
  /// Times all sides of `order`, which takes the mix, at `m`. Their outputs are compared with rows [0, m) of the
  /// Order's output at max_m.
  std::vector<BenchResult> run(Order order, int64_t m, const BenchOptions& options);

 private:
  struct Side;
  const Memory& reference(Order order, ScaleKind scales);
  const Memory* own_reference(const char* kernel, const CublasLt& library, ScaleKind scales, const LtCall& call);
  void add_rows(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides);
  void add_cublaslt(Order order, int64_t m, const BenchOptions& options, std::vector<Side>& sides);
  void compare(int64_t m, std::vector<Side>& sides);
  void drop_slow_suggestions(int launches, std::vector<Side>& sides);
  int launches(int64_t m) const;

  const Place& place_;
  Operands operands_;
  int64_t max_m_;
  Memory out_, workspace_;
  Launch launch_;
  std::optional<Order> reference_order_;  // whose outputs references_ holds
  std::map<ScaleKind, Memory> references_;
  std::map<std::string, Memory> own_references_;  // a peer's output at max_m, empty where the library refused
};

}  // namespace samebits::cli
