// The scaled GEMM: check -> choose -> launch. Order chooses the bits, Plan chooses the speed.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "samebits/error.h"
#include "samebits/order.h"
#include "samebits/types.h"

namespace samebits {

/// out[m,n] = cast(scale_b[n] * (scale_a[m] * acc(m,n)) [+ bias[n], fused]), acc = a[m,:] . b[n,:] in the Order.
/// a [M,K], b [N,K] (row n is output channel n), out [M,N]; scale_a 1 or M values, scale_b 1 or N values, FP32.
/// FP8 Orders take e4m3 and e5m2 and need both scales. 16-bit Orders (Operands::kHalf) take `a` and `b` in bf16 or both
/// in fp16, or `b` in e4m3, with the bits of `b` widened to a's dtype first (weight-only FP8); an empty Scales is 1.
/// An Order with scale_block = 128 has the scales inside acc, and out = cast(acc [+ bias[n]]): scale_a
/// [M, ceil(K/128)], scale_b [ceil(N/128), ceil(K/128)], any strides (M fastest for instance).
/// All memory lies on the device that the call runs on. The call owns nothing and keeps no pointer.
struct GemmProblem {
  Order order = Order::kHopperFast;
  ConstView a;     ///< [M,K], what spec(order).operands says
  ConstView b;     ///< [N,K], the same
  Scales scale_a;  ///< one value, one per row of a, or blocks; or empty for 1 (16-bit Orders)
  Scales scale_b;  ///< one value, one per row of b, or blocks; or empty for 1 (16-bit Orders)
  ConstView bias;  ///< [1,N] bf16, fp16 or fp32, or empty; no bias is not a zero bias
  View out;        ///< [M,N] bf16, fp16 or fp32

  int64_t m() const { return a.rows; }
  int64_t n() const { return b.rows; }
  int64_t k() const { return a.cols; }
  /// Whether `b` is FP8 beside a 16-bit `a`.
  bool weight_only() const { return spec(order).operands == Operands::kHalf && b.dtype == Dtype::kE4m3; }
};

/// A place to run. `arch` is 0 for the CPU, else 10 * major + minor of the compute capability.
struct DeviceInfo {
  int arch = 0;
  int sms = 0;                ///< streaming multiprocessors
  int64_t shared_memory = 0;  ///< bytes one block may opt in to
  bool certified = true;      ///< all rows of this device kind are proven, not only its fixed row
  int ordinal = -1;           ///< CUDA device index; -1 for the CPU
  int64_t memory = 0;         ///< bytes of device memory
  int driver = 0;             ///< CUDA version of the driver, 1000 * major + 10 * minor
  std::string name = "cpu";
  int gbps = 0;  ///< memory bandwidth by clock and bus width, 10^9 bytes a second; 0: not known

  bool is_cpu() const { return arch == 0; }
};

/// "NVIDIA H100 80GB HBM3 (sm_90)" or "cpu", for messages.
std::string describe(const DeviceInfo& device);
/// The CPU of this process.
const DeviceInfo& cpu_device();
/// The CUDA devices of this process; empty without a GPU, a driver or a CUDA build. Read once, order of CUDA.
const std::vector<DeviceInfo>& cuda_devices();

/// How much of a GPU call may overlap the end of the previous kernel of its stream (programmatic dependent launch).
/// Never changes a bit.
enum class Overlap : uint8_t {
  kNone,    ///< starts when the previous kernel has ended
  kLaunch,  ///< its blocks may start earlier and wait before they touch memory
  kWeight,  ///< they also fetch `b` before they wait: only if the previous kernel does not write it,
            ///< and behind kChain none of that run nor the kernel before the run
  kChain,   ///< and the next kernel may start before they have waited, beside all of a run of such calls and the kernel
            ///< before it: only if none of these writes what a call of the run or the next one fetches early
};

struct RuleSet;  // samebits/rules.h

/// Where and how one call runs. The caller sets the current CUDA device to `device.ordinal` and owns the stream.
struct Launch {
  const DeviceInfo* device = &cpu_device();
  void* stream = nullptr;     ///< cudaStream_t; ignored on the CPU
  void* workspace = nullptr;  ///< at least Plan::workspace_bytes, 16-byte aligned
  int64_t workspace_bytes = 0;
  int threads = 0;                     ///< CPU threads; 0: all. Never changes a bit.
  Overlap overlap = Overlap::kLaunch;  ///< ignored on the CPU
  const RuleSet* rules = nullptr;      ///< measured on this GPU, asked first by choose(). Never changes a bit.
};

struct Tile;  // src/cuda/tile.h

/// Why a row runs.
enum class Source : uint8_t {
  kOnly,       ///< the CPU backend, or a row asked for by name
  kFixed,      ///< the device has no certificate and is held to one row
  kRules,      ///< the caller's RuleSet
  kMeasured,   ///< the library's own measurement of this weight shape
  kPredicted,  ///< the row with the least predicted time
};

/// What choose() picked. Plain values: printable, comparable, never a source of bits.
struct Plan {
  const Tile* tile = nullptr;  ///< null: the CPU backend
  std::string_view kernel;     ///< name of the row, "cpu" for the CPU backend
  Source source = Source::kOnly;
  int64_t max_m = 0;  ///< of a measured pick: the largest M that it was made for
  double us = 0;      ///< of a predicted row: microseconds
  int64_t workspace_bytes = 0;
};

/// Picks a row of `order` for the device. Pure: looks at nothing but its arguments. Asks `rules`, if they hold for the
/// device, then the library's own measurements, then predicts (DESIGN.md, "Which row").
/// Throws Error with the numbers when no row can compute the problem (K or N not a multiple of 16 bytes of `a`, another
/// arch, too little shared memory). `weight_only`: `b` is e4m3 beside a 16-bit `a`.
Plan choose(const DeviceInfo& device, Order order, int64_t m, int64_t n, int64_t k, Dtype out = Dtype::kBf16,
            const RuleSet* rules = nullptr, bool weight_only = false);

/// The row called `kernel`, for benchmarks, tests and proofs. Throws Error when it cannot compute the problem.
Plan choose_named(const DeviceInfo& device, std::string_view kernel, int64_t m, int64_t n, int64_t k,
                  Dtype out = Dtype::kBf16);

/// Names of the rows of `order` that can write `out` on the device, in table order.
std::vector<std::string_view> kernels(const DeviceInfo& device, Order order, Dtype out = Dtype::kBf16);

/// Runs the problem with the row that choose() picks. Asynchronous on a GPU. M = 0 or N = 0 returns at once;
/// K = 0 is refused. Throws Error on shapes, dtypes, strides or alignments that the row cannot take.
void gemm(const GemmProblem& problem, const Launch& launch = {});

/// The same with a row of the caller's choice. Throws Error if the row is of another Order.
void gemm(const GemmProblem& problem, const Plan& plan, const Launch& launch);

}  // namespace samebits
