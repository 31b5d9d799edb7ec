// cuBLASLt as the opponent of `samebits bench`: loaded with dlopen, so that nothing links it and no header is needed.
#pragma once
#include <memory>
#include <string>
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

/// One problem (e4m3, one scale per token and per channel, no bias, bf16 out) prepared for cuBLASLt, with the library's
/// best suggestions for it. The CublasLt must outlive it.
class CublasLtMatmul {
 public:
  /// Asks for up to 8 suggestions within `workspace_bytes`. No suggestion: size() is 0.
  CublasLtMatmul(const CublasLt& library, const GemmProblem& problem, bool fast_accumulation, size_t workspace_bytes);
  CublasLtMatmul(const CublasLtMatmul&) = delete;
  CublasLtMatmul& operator=(const CublasLtMatmul&) = delete;
  ~CublasLtMatmul();

  int size() const { return static_cast<int>(algorithms_.size()); }
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
