// cuBLASLt as an opponent in `samebits bench`: loaded with dlopen, so that nothing links it and no header is needed.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "samebits/gemm.h"

namespace samebits::cli {

/// The loaded library and one handle.
class CublasLt {
 public:
  /// Opens `path`, or libcublasLt.so.13, .12 by the loader's search where `path` is empty. Throws Error(kUnsupported)
  /// with the loader's words when there is none.
  explicit CublasLt(const std::string& path = {});
  ~CublasLt();

  /// "13.0.2", from cublasLtGetVersion.
  std::string version() const;

 private:
  friend class CublasLtMatmul;
  struct Api;
  std::unique_ptr<Api> api_;
  void* handle_ = nullptr;
};

/// How a problem is put to cuBLASLt.
struct LtCall {
  bool fast_accumulation;
  bool outer_vector;       ///< one scale per token and per channel; else the problem's first of each, one a tensor
  int suggestions;         ///< algorithms to ask for, 1 to 8
  size_t workspace_bytes;  ///< that they may use
};

/// How an algorithm divides K.
struct SplitK {
  unsigned parts;              ///< 1: it does not
  std::string_view reduction;  ///< "none", "in place", "compute type", "output type", or "unknown"
};

/// One problem (e4m3 with scales or bf16 without, no bias, bf16 out) prepared for cuBLASLt, with the library's best
/// suggestions for it. The CublasLt must outlive it.
class CublasLtMatmul {
 public:
  /// No suggestion: size() is 0.
  CublasLtMatmul(const CublasLt& library, const GemmProblem& problem, const LtCall& call);
  CublasLtMatmul(const CublasLtMatmul&) = delete;
  CublasLtMatmul& operator=(const CublasLtMatmul&) = delete;
  ~CublasLtMatmul();

  int size() const { return static_cast<int>(algorithms_.size()); }
  /// Nothing where the library does not tell.
  std::optional<SplitK> split_k(int i) const;
  /// Runs suggestion `i` on launch.stream: a and out as in the problem of the constructor, the weight at `b`.
  /// Throws Error(kUnsupported) when the library refuses.
  void run(int i, const void* b, const Launch& launch) const;

 private:
  const CublasLt& library_;
  const void* a_;
  void* out_;
  void* description_ = nullptr;
  void* weight_ = nullptr;
  void* tokens_ = nullptr;
  void* result_ = nullptr;
  struct Algorithm {
    uint64_t data[8];
  };
  std::vector<Algorithm> algorithms_;
};

}  // namespace samebits::cli
