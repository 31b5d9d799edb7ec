// Rules measured on one GPU: which row runs for which weight shape and M. Written by `samebits tune`, read by
// load_rules(), and given to choose() and gemm(). They change the speed and never a bit: every row named for an Order
// computes that Order, which is checked when a file is loaded.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "samebits/gemm.h"

namespace samebits {

/// "For m <= max_m this row", of the picks before it the first that fits.
struct Pick {
  int64_t max_m = 0;  ///< 0: no pick
  std::string_view kernel;
};

inline constexpr size_t kMaxPicks = 32;

/// What was measured of one weight shape [N,K] of an Order: picks with ascending max_m, the unused ones at the end.
struct ShapeRule {
  Order order = Order::kHopperFast;
  int64_t n = 0, k = 0;
  int64_t min_m = 1;  ///< the smallest M that was measured: below it the rule says nothing
  std::array<Pick, kMaxPicks> picks = {};
};

/// The content of a rules file. It holds for the devices of one kind, and says nothing about others.
struct RuleSet {
  std::string device;  ///< name of the GPU
  int arch = 0;        ///< 10 * major + minor of its compute capability
  int sms = 0;
  std::string version;  ///< of the library whose rows were measured
  int driver = 0;       ///< CUDA version of the driver, as in DeviceInfo; not checked
  std::string date;     ///< "2026-11-24"
  std::vector<ShapeRule> shapes;
  uint64_t digest = 0;  ///< XXH3-64 of the file's content; set by load_rules()

  /// Whether the rules were measured on a GPU like `device`.
  bool holds_for(const DeviceInfo& other) const {
    return other.arch == arch && other.sms == sms && other.name == device;
  }
};

/// Reads a rules file. Needs no GPU. Throws Error(kIo), or Error(kBadInput) with a sentence: text that is damaged (its
/// digest differs), another format or another version of the library, an unknown row, a row of another Order.
RuleSet load_rules(const std::filesystem::path& path);

/// Writes a rules file, as a whole or not at all. Throws Error(kIo).
void save_rules(const RuleSet& rules, const std::filesystem::path& path);

/// Throws Error(kBadInput) with both names and SM counts unless the rules hold for the device.
void check_rules(const RuleSet& rules, const DeviceInfo& device);

/// Version of the library: "0.1.0".
std::string_view version();

}  // namespace samebits
