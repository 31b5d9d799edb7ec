// The one exception type of the library. Every public function throws it and nothing else on bad input.
#pragma once
#include <stdexcept>
#include <string>

namespace samebits {

/// What went wrong, coarse enough to act on. The command line maps it to an exit code.
enum class ErrorCode {
  kBadInput,     ///< shapes, dtypes, strides, scales or files that the call cannot take
  kUnsupported,  ///< the input is fine but no kernel of this device computes it
  kNoDevice,     ///< no GPU, no driver, or a GPU of another generation
  kDeviceFault,  ///< CUDA reported a failure; the device may be unusable
  kIo,           ///< the operating system refused: missing file, full disk
};

/// Carries a message with the numbers in it.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace samebits
