// What `samebits verify` prints: the table, the JSON and the verdict. verify.cpp runs the proof.
#pragma once
#include <string>
#include <vector>

#include "cli/exit_code.h"
#include "samebits/checkpoint.h"
#include "samebits/verify.h"

namespace samebits::cli {

/// A finished run.
struct VerifyRun {
  std::string subject;  ///< path of the checkpoint, or the shapes' name
  const VerifyOptions& options;
  const VerifyReport& report;
  const std::vector<NotCovered>& not_covered;
  double seconds;
};

/// "0 of 123456 outputs differ", plain digits; or that the control was not caught. The last line of stdout.
std::string verdict(const VerifyReport& report);

/// kSame, kDifferent or kInterrupted.
ExitCode exit_code_of(const VerifyReport& report);

/// Where the first difference is, as one line: row, column, both values in hex, ulps, batch, position and kernel.
std::string explain(const VerifyResult& result);

/// The table, the control, the sample, the digest and what is not covered. All but the verdict.
std::string verify_table(const VerifyRun& run);

/// One JSON object on one line. docs/cli.md names its fields.
std::string verify_json(const VerifyRun& run);

}  // namespace samebits::cli
