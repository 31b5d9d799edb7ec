// Threads of the CPU backend: a range of independent tasks on oneTBB. Results never depend on the thread count.
#pragma once
#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <cstdint>

#include "numerics/float_env.h"

namespace samebits::cpu {

/// Rows of `cols` elements that one task takes: enough work to be worth a thread.
inline int64_t row_grain(int64_t cols) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, cols)); }

/// Calls body(first, last) on disjoint parts of [0, count) of at least `grain`, on `threads` threads (0: all).
template <class Body>
void parallel_for(int64_t count, int64_t grain, int threads, const Body& body) {
  if (count <= grain || threads == 1) {
    const FloatEnv env;
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  oneapi::tbb::task_arena arena(threads > 0 ? threads : oneapi::tbb::task_arena::automatic);
  arena.execute([&] {
    oneapi::tbb::parallel_for(oneapi::tbb::blocked_range<int64_t>(0, count, grain), [&](const auto& range) {
      const FloatEnv env;  // of the worker
      body(range.begin(), range.end());
    });
  });
}

}  // namespace samebits::cpu
