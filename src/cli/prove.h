// What `samebits prove` prints: a table, JSON and a verdict. Apart from prove.cpp so that reports which no sound kernel
// can bring about are tested.
#pragma once
#include <string>

#include "samebits/prove.h"

namespace samebits::cli {

std::string prove_table(const ProveReport& report, const DeviceInfo& device, double seconds);
/// One line; `certificate` is empty where none was written.
std::string prove_json(const ProveReport& report, const DeviceInfo& device, int rounds, double seconds,
                       const std::string& certificate);
/// "ada-fast is invariant, not auditable", and how many outputs are not the CPU backend's, if that was recorded.
std::string not_auditable(const ProvedOrder& order);
/// The last line: "0 of N outputs differ ...".
std::string prove_verdict(const ProveReport& report, const std::string& certificate);

}  // namespace samebits::cli
