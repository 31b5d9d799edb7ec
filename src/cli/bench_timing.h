// Times of several things that take turns, and the machine's own limits. Called by bench_run.cpp, bench_layer.cpp and
// bench.cpp.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/memory.h"

namespace samebits::cli {

/// Launches one thing on copy `copy` of its weights, or runs it on the CPU.
using Enqueue = std::function<void(int copy)>;

/// Runs a side once and waits. False where its own library refuses: Error(kUnsupported).
bool accepts(const Place& place, const Enqueue& side);

/// Median microseconds a call of each side. On a GPU a side is a CUDA graph of `launches` calls that rotate through
/// `copies`; after a replay to warm up, the sides replay in turns, `rounds` times, so that a change of the clocks meets
/// them all. On the CPU each call is timed by itself.
std::vector<double> time_in_turns(const Place& place, int launches, int copies, int rounds,
                                  const std::vector<Enqueue>& sides);

/// How many calls of about `microseconds` a graph should hold: enough that its start does not show, whole rounds of the
/// copies where possible, and no more than the precision needs.
int calls_a_graph(double microseconds, int copies);

/// The machine's own limits, measured like the rest: "ceiling-read" (2 GB once) and "ceiling-empty-kernel".
struct Ceiling {
  std::string kernel;
  double us;
  double gbps;  ///< 0 where there is none
};
std::vector<Ceiling> measure_ceilings(const Place& place);

}  // namespace samebits::cli
