// See bench_timing.h.
#include "cli/bench_timing.h"

#include <algorithm>
#include <chrono>

#include "cuda/timing.h"

namespace samebits::cli {
namespace {

constexpr double kGraphMicroseconds = 800;  // a longer replay gains no precision
constexpr double kLeastMicroseconds = 3;    // of a call; below it the launch is all there is
constexpr int kMostCalls = 192;             // capturing them costs the host milliseconds

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double microseconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

bool accepts(const Place& place, const Enqueue& side) {
  try {
    side(0);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    return false;
  }
  place.synchronize();
  return true;
}

std::vector<double> time_in_turns(const Place& place, int launches, int copies, int rounds,
                                  const std::vector<Enqueue>& sides) {
  std::vector<cuda::Replay> replays;
  if (!place.is_cpu()) {
    for (const Enqueue& side : sides)
      replays.emplace_back(
          launches, [&](int i) { side(i % copies); }, place.stream());
    for (const cuda::Replay& replay : replays) replay.microseconds();
  }
  std::vector<std::vector<double>> us(sides.size());
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < sides.size(); ++i)
      us[i].push_back(place.is_cpu() ? microseconds_of([&] { sides[i](0); }) : replays[i].microseconds());
  std::vector<double> medians;
  for (const std::vector<double>& side : us) medians.push_back(median(side));
  return medians;
}

int calls_a_graph(double microseconds, int copies) {
  const double calls = kGraphMicroseconds / std::max(microseconds, kLeastMicroseconds);
  const int most = std::clamp(static_cast<int>(calls), 1, kMostCalls);
  return most < copies ? most : most / copies * copies;
}

std::vector<Ceiling> measure_ceilings(const Place& place) {
  if (place.is_cpu()) return {};
  constexpr size_t kBytes = size_t{2} << 30;
  constexpr int kRounds = 9;
  Memory data(place, kBytes), sink(place, 16);
  data.fill(1);
  double read = 1e30;
  for (int per_sm : {1, 2, 4, 8, 16}) {
    const Enqueue pass = [&](int) {
      cuda::read_all(data.data(), kBytes, sink.data(), per_sm * place.device().sms, place.stream());
    };
    read = std::min(read, time_in_turns(place, 1, 1, kRounds, {pass})[0]);
  }
  const Enqueue nothing = [&](int) { cuda::do_nothing(place.device().sms, place.stream()); };
  const double empty = time_in_turns(place, 100, 1, kRounds, {nothing})[0];
  return {{"ceiling-read", read, kBytes / read * 1e-3}, {"ceiling-empty-kernel", empty, 0}};
}

}  // namespace samebits::cli
