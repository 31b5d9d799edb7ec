// What the executable returns. docs/cli.md promises these numbers to scripts.
#pragma once

namespace samebits::cli {

enum ExitCode : int {
  kSame = 0,         ///< every output has the same bits; or the command did what it was asked
  kDifferent = 1,    ///< outputs differ, or a control was not caught
  kBadRequest = 2,   ///< bad input, no linear layer, no such device, a file the system refuses, a parse error; or a
                     ///< device that could not run every row that was to be proven
  kDeviceFault = 3,  ///< CUDA failed while running
  kInterrupted = 130
};

}  // namespace samebits::cli
