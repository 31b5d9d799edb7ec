// What `samebits prove` makes of a report: a certificate, a table, JSON, a verdict and an exit code. Apart from
// prove.cpp so that reports which no sound kernel can bring about are tested.
#pragma once
#include <string>

#include "cli/exit_code.h"
#include "samebits/prove.h"

namespace samebits::cli {

/// What became of the file of --out: its path in one of the two, or in neither.
struct CertificateFile {
  std::string written;
  std::string removed;  ///< a certificate of an earlier run
};

/// Writes the certificate of a complete proof. After any other one an earlier certificate of the device does not stay.
CertificateFile settle_certificate(const ProveReport& report, const DeviceInfo& device, int rounds,
                                   const std::string& path);

/// kSame for a complete proof, kDifferent where rows differ or the control was not caught, kBadRequest where rows were
/// left out.
ExitCode exit_code_of(const ProveReport& report);

std::string prove_table(const ProveReport& report, const DeviceInfo& device, double seconds);
/// One line.
std::string prove_json(const ProveReport& report, const DeviceInfo& device, int rounds, double seconds,
                       const CertificateFile& file);
/// "ada-fast is invariant, not auditable", and how many outputs are not the CPU backend's, if that was recorded.
std::string not_auditable(const ProvedOrder& order);
/// The last line: "0 of N outputs differ ...".
std::string prove_verdict(const ProveReport& report, const CertificateFile& file);

}  // namespace samebits::cli
