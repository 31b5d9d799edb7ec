// What `samebits bench` writes: one JSON object a line, and a table for people.
#pragma once
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_layer.h"
#include "cli/bench_run.h"
#include "cli/nvml.h"

namespace samebits::cli {

using Json = nlohmann::ordered_json;

/// Where the lines go.
struct LinesTo {
  std::string file;        ///< --out; empty: none
  bool append = false;     ///< after what the file holds, else in its place
  bool to_stdout = false;  ///< --json
};

/// JSON lines as they come, each with the device, its driver and the date.
class Lines {
 public:
  /// Throws Error(kIo) where the file cannot be written.
  Lines(const LinesTo& to, const DeviceInfo& device);
  void write(const Json& fields);

 private:
  Json head_;
  bool to_stdout_;
  std::ofstream file_;
};

/// "2026-11-24", UTC.
std::string today();
/// The newest CUDA that the driver can run: "CUDA 13.0".
std::string driver_of(const DeviceInfo& device);

/// `value` to five digits: a time has no more.
double five_digits(double value);

/// The fields of one kernel at one M; clocks where NVML tells them.
Json fields_of(Order order, const std::string& shape_name, Shape shape, int64_t m, const BenchResult& result,
               const std::optional<Nvml::Clocks>& clocks);

/// The table's head, and its line of one M: times of the others divided by ours, so more than 1 means samebits is
/// faster.
std::string_view table_header();
std::string table_line(int64_t m, Shape shape, const std::vector<BenchResult>& results);

/// The same of a layer; `read_gbps` is the read ceiling, 0 where there is none.
Json layer_fields(Order order, std::string_view model, int64_t weight_bytes, int64_t m, const LayerResult& result,
                  double read_gbps, const std::optional<Nvml::Clocks>& clocks);
std::string_view layer_header();
std::string layer_line(int64_t weight_bytes, int64_t m, const LayerResult& result, double read_gbps);

}  // namespace samebits::cli
