// The tables of GPU kernels as plain data, readable without nvcc: rows (Tile), rules, and the launch behind a row.
// Filled by tables.cpp from sm90.def; read by src/core/choose.cpp, `samebits info` and the tests.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

#include "samebits/gemm.h"

namespace samebits {

/// What a row writes: bf16 and fp16 (one kernel, chosen at run time), or fp32.
enum class OutKind : uint8_t { kHalf, kFloat };

constexpr OutKind out_kind(Dtype out) { return out == Dtype::kF32 ? OutKind::kFloat : OutKind::kHalf; }

/// Defined once per row in its own translation unit.
struct TileKernel {
  int64_t shared_memory;  ///< bytes per block
  /// Enqueues the kernel on launch.stream of the current device. The caller has checked the problem against the row.
  void (*launch)(const GemmProblem& problem, const Launch& launch);
};

/// One row of a table: a kernel that computes `order` on `arch`.
struct Tile {
  std::string_view name;
  int arch;
  int m, n, k;  ///< block tile of the MMA; n counts tokens when swapped
  int cluster_m, cluster_n;
  std::string_view schedule;  ///< Basic, Pingpong or Cooperative
  bool swapped;               ///< the weight is the MMA's first operand, so small M wastes nothing
  Order order;
  OutKind out;
  const TileKernel* kernel;
};

/// "For m <= max_m, n >= min_n, k >= min_k use this row." The first that fits wins among the rules of an Order.
struct Rule {
  int64_t max_m, min_n, min_k;
  std::string_view tile;
};

namespace cuda {

std::span<const Tile> tiles();
std::span<const Rule> rules();
/// The rows that a device without a certificate is held to, one per Order and OutKind.
std::span<const std::string_view> fixed_tiles();

}  // namespace cuda
}  // namespace samebits
