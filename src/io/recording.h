// Recordings of GEMM calls: inputs and the bits that some device returned. docs/contract.md, "Recordings". Written by
// `samebits verify --record` and the recorders of bench/, read by `samebits audit` and the golden tests.
#pragma once
#include <filesystem>
#include <span>
#include <vector>

#include "io/safetensors.h"
#include "samebits/gemm.h"

namespace samebits {

/// One call: what went in and what came out. Views into the Recording's file, or into the writer's memory.
struct RecordedCall {
  Order order = Order::kHopperFast;
  ConstView a;     ///< [M,K] e4m3 or e5m2; bf16 or fp16 for a 16-bit Order
  ConstView b;     ///< [N,K] e4m3 or e5m2; for a 16-bit Order as `a`, or e4m3
  Scales scale_a;  ///< one value or M
  Scales scale_b;  ///< one value or N
  ConstView bias;  ///< [1,N] bf16, fp16 or fp32, or empty
  ConstView out;   ///< [M,N] fp32, bf16 or fp16

  /// The same call with another place for the output.
  GemmProblem problem(View out) const { return {order, a, b, scale_a, scale_b, bias, out}; }
};

/// A recording opened for reading, version 1 or 2, every call checked: names, dtypes, shapes and Order. Throws
/// Error(kBadInput) with file and call number, or Error(kIo).
class Recording {
 public:
  static Recording open(const std::filesystem::path& path);
  static Recording from(SafetensorsFile file);

  const std::vector<RecordedCall>& calls() const { return calls_; }
  const Metadata& metadata() const { return file_.metadata(); }  ///< device, command, date, ... and the format's own
  int version() const { return version_; }

 private:
  explicit Recording(SafetensorsFile file) : file_(std::move(file)) {}
  SafetensorsFile file_;
  std::vector<RecordedCall> calls_;
  int version_ = 0;
};

/// Writes version 2, atomically. `metadata` adds device, command, date; the format's own names are set here. Views may
/// have any strides; memory is the host's.
void write_recording(const std::filesystem::path& path, std::span<const RecordedCall> calls, Metadata metadata);

}  // namespace samebits
