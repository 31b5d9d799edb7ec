// See bench_output.h.
#include "cli/bench_output.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "core/overlap.h"
#include "cuda/tile.h"

namespace samebits::cli {
namespace {

double teraflops(int64_t m, Shape shape, double us) {
  return 2.0 * static_cast<double>(m * shape.n) * static_cast<double>(shape.k) / us * 1e-6;
}

double gigabytes_a_second(int64_t bytes, double us) { return static_cast<double>(bytes) / us * 1e-3; }

// Output tiles [M,N] is cut into, each the work of one block.
int64_t tiles_of(const Tile& t, int64_t m, int64_t n) {
  const int64_t rows = t.swapped ? n : m, cols = t.swapped ? m : n;
  return (rows + t.m - 1) / t.m * ((cols + t.n - 1) / t.n);
}

void add_clocks(const std::optional<Nvml::Clocks>& clocks, Json& line) {
  if (!clocks) return;
  line["sm_mhz"] = clocks->sm_mhz;
  line["mem_mhz"] = clocks->memory_mhz;
}

}  // namespace

std::string today() { return fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::chrono::system_clock::now())); }

std::string driver_of(const DeviceInfo& device) {
  return device.is_cpu() ? "none" : fmt::format("CUDA {}.{}", device.driver / 1000, device.driver % 1000 / 10);
}

double five_digits(double value) {
  if (value <= 0) return value;
  const double unit = std::pow(10.0, 4 - std::floor(std::log10(value)));
  return std::round(value * unit) / unit;
}

Lines::Lines(const LinesTo& to, const DeviceInfo& device) : to_stdout_(to.to_stdout) {
  head_["device"] = device.name;
  head_["driver"] = driver_of(device);
  head_["date"] = today();
  if (!device.is_cpu()) head_["sms"] = device.sms;
  if (to.file.empty()) return;
  file_.open(to.file, to.append ? std::ios::app : std::ios::trunc);
  if (!file_) throw Error(ErrorCode::kIo, fmt::format("{}: cannot be written", to.file));
}

void Lines::write(const Json& fields) {
  Json line = head_;
  line.update(fields);
  if (to_stdout_) fmt::print("{}\n", line.dump());
  if (!file_.is_open()) return;
  file_ << line.dump() << std::endl;
  if (!file_) throw Error(ErrorCode::kIo, "the disk refused a line of --out");
}

Json fields_of(Order order, const std::string& shape_name, Shape shape, int64_t m, const BenchResult& r,
               const std::optional<Nvml::Clocks>& clocks) {
  Json line = {{"order", name(order)},
               {"shape", shape_name},
               {"m", m},
               {"n", shape.n},
               {"k", shape.k},
               {"kernel", r.kernel},
               {"us", five_digits(r.us)},
               {"same_bits", r.same_bits},
               {"gbps", five_digits(gigabytes_a_second(shape.n * shape.k, r.us))},
               {"tflops", five_digits(teraflops(m, shape, r.us))}};
  if (!r.row.empty()) line["row"] = r.row;
  if (r.overlap) line["overlap"] = name(*r.overlap);
  if (r.tile) line["tile"] = {r.tile->m, r.tile->n, r.tile->k};
  if (r.tile) line["tiles"] = tiles_of(*r.tile, m, shape.n);
  if (r.split_k) line["split_k"] = r.split_k->parts;
  if (r.split_k) line["reduction"] = r.split_k->reduction;
  if (r.invariant) line["invariant"] = *r.invariant;
  add_clocks(clocks, line);
  return line;
}

std::string_view table_header() {
  return "      m  samebits us  row               TFLOP/s     GB/s  best row  fixed-tile   outer  tensor  same bits\n";
}

std::string table_line(int64_t m, Shape shape, const std::vector<BenchResult>& results) {
  const auto find = [&](std::string_view kernel) -> const BenchResult* {
    for (const BenchResult& r : results)
      if (r.kernel == kernel) return &r;
    return nullptr;
  };
  const BenchResult& ours = *find("samebits");
  double best = ours.us;
  bool same = ours.same_bits;
  for (const BenchResult& r : results) {
    if (!r.kernel.starts_with("samebits:")) continue;
    best = std::min(best, r.us);
    same = same && r.same_bits;
  }
  const auto ratio = [&](const BenchResult* r) {
    return r ? fmt::format("{:.2f}", r->us / ours.us) : std::string("-");
  };
  const BenchResult* outer = find("cublaslt-outer") ? find("cublaslt-outer") : find("cublaslt-outer-slow");
  return fmt::format("{:7}  {:11.2f}  {:15} {:9.3g}  {:7.4g}  {:8.2f}  {:>10}  {:>6}  {:>6}  {}\n", m, ours.us,
                     ours.row, teraflops(m, shape, ours.us), gigabytes_a_second(shape.n * shape.k, ours.us),
                     best / ours.us, ratio(find("fixed-tile")), ratio(outer), ratio(find("cublaslt-tensor")),
                     same ? "all rows" : "DIFFERENT");
}

Json layer_fields(Order order, std::string_view model, int64_t weight_bytes, int64_t m, const LayerResult& r,
                  double read_gbps, const std::optional<Nvml::Clocks>& clocks) {
  const double gbps = gigabytes_a_second(weight_bytes, r.us);
  Json line = {{"order", name(order)},         {"layer", model},           {"m", m},
               {"weight_bytes", weight_bytes}, {"kernel", r.kernel},       {"us", five_digits(r.us)},
               {"same_bits", r.same_bits},     {"gbps", five_digits(gbps)}};
  if (read_gbps > 0) line["of_read_ceiling"] = five_digits(gbps / read_gbps);
  add_clocks(clocks, line);
  return line;
}

std::string_view layer_header() {
  return "      m  side                     us     GB/s  of the read ceiling  same bits\n";
}

std::string layer_line(int64_t weight_bytes, int64_t m, const LayerResult& r, double read_gbps) {
  const double gbps = gigabytes_a_second(weight_bytes, r.us);
  return fmt::format("{:7}  {:16} {:10.2f}  {:7.4g}  {:>19}  {}\n", m, r.kernel, r.us, gbps,
                     read_gbps > 0 ? fmt::format("{:.1f} %", 100 * gbps / read_gbps) : "-",
                     r.same_bits ? "yes" : "DIFFERENT");
}

}  // namespace samebits::cli
