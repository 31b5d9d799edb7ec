// The contract is IEEE 754 as the standard has it: nearest even, subnormals kept. A caller may have set something else
// (torch.set_flush_denormal, a library linked with -ffast-math), so CPU code that rounds works inside a FloatEnv.
#pragma once
#include <cfenv>

namespace samebits {

/// Sets this thread's default floating-point environment, and restores the caller's at the end of the scope.
class FloatEnv {
 public:
  FloatEnv() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  FloatEnv(const FloatEnv&) = delete;
  FloatEnv& operator=(const FloatEnv&) = delete;
  ~FloatEnv() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
};

}  // namespace samebits
