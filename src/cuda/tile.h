// The tables of GPU kernels as plain data, readable without nvcc: rows (Tile), what was measured of them,
// and the launch behind a row. Filled by tables.cpp from the .def files; read by src/core/choose.cpp,
// `samebits info` and the tests.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

#include "samebits/rules.h"

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

/// What a row costs: the constants of predicted_us() (core/cost.h), which says what they mean. All 0: not measured.
struct Cost {
  double launch_us = 0, tile_us = 0, k_us = 0, memory = 0, contention = 0, spill = 0;
};

/// One row of a table: a kernel that computes `order` on `arch`.
struct Tile {
  std::string_view name;
  int arch;
  int m, n, k;  ///< block tile of the MMA; n counts tokens when swapped
  int cluster_m, cluster_n;
  std::string_view schedule;  ///< a word of CUTLASS (sm90.cuh ...), a Ring word (ring.cuh) or a Warps word (mma.cuh)
  bool swapped;               ///< the weight is the MMA's first operand, so small M wastes nothing
  Order order;
  OutKind out;
  const TileKernel* kernel;
  Cost cost = {};
  bool weight_only = false;  ///< takes `b` in e4m3 beside a 16-bit `a`; without it `b` has a's dtype
};

/// Bytes of an element of `a` and of `b` for a row.
constexpr int a_bytes(const Tile& tile) { return spec(tile.order).operands == Operands::kHalf ? 2 : 1; }
constexpr int b_bytes(const Tile& tile) { return tile.weight_only ? 1 : a_bytes(tile); }

/// The SHAPE lines of the tables were measured on H100 SXM and H200: on this many SMs, and with memory below or from
/// this bandwidth on (10^9 bytes a second). They hold for no other SM count.
inline constexpr int kMeasuredSms = 132, kFastMemoryGbps = 4000;

namespace cuda {

std::span<const Tile> tiles();
/// The weight shapes measured on devices like this one; empty where there are none.
std::span<const ShapeRule> measured(const DeviceInfo& device);
/// The rows that a device without a certificate is held to, one per Order and OutKind.
std::span<const std::string_view> fixed_tiles();
/// The architectures of this build, ascending: quantizers and norms run on each, GEMM rows where a table has them.
std::span<const int> archs();

}  // namespace cuda
}  // namespace samebits
