// The integer generator of activations and random weights.
#include "core/generator.h"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#include <xxhash.h>

#include <algorithm>

#include "samebits/quantize.h"

namespace samebits {
namespace {

template <class Body>
void parallel_rows(int64_t rows, int threads, const Body& body) {
  tbb::task_arena arena(threads > 0 ? threads : static_cast<int>(tbb::task_arena::automatic));
  arena.execute([&] { tbb::parallel_for(int64_t{0}, rows, body); });
}

}  // namespace

uint64_t generator_key(uint64_t seed, std::string_view name) {
  return mix(seed + XXH3_64bits(name.data(), name.size()));
}

std::vector<float> generate_activations(uint64_t key, int64_t rows, int64_t cols, int threads) {
  std::vector<float> gain(static_cast<size_t>(cols));
  for (int64_t col = 0; col < cols; ++col) {
    const uint64_t h = mix(key ^ ~static_cast<uint64_t>(col));
    gain[static_cast<size_t>(col)] = (h % 512 == 0 ? 64.0f : h % 64 == 0 ? 16.0f : 1.0f) * 0x1p-15f;
  }
  std::vector<float> x(static_cast<size_t>(rows * cols));
  parallel_rows(rows, threads, [&](int64_t row) {
    for (int64_t col = 0; col < cols; ++col)
      x[static_cast<size_t>(row * cols + col)] =
          static_cast<float>(generated_integer(key, row, col, cols)) * gain[static_cast<size_t>(col)];
  });
  return x;
}

RandomWeight generate_weight(uint64_t key, int64_t n, int64_t k, int threads, Granularity granularity) {
  RandomWeight weight{std::vector<uint8_t>(static_cast<size_t>(n * k)),
                      std::vector<float>(static_cast<size_t>(weight_scales(granularity, n, k)))};
  // In slices of whole blocks, so that the FP32 form of a large matrix (4 bytes an element) is never held whole.
  const int64_t slice = std::max<int64_t>(1, (int64_t{1} << 22) / k / kGroup) * kGroup;
  std::vector<float> rows(static_cast<size_t>(std::min(slice, n) * k));
  Launch launch;
  launch.threads = threads;
  for (int64_t first = 0; first < n; first += slice) {
    const int64_t count = std::min(slice, n - first);
    parallel_rows(count, threads, [&](int64_t row) {
      const float size = 0x1p-21f / static_cast<float>(1 << (mix(key ^ ~static_cast<uint64_t>(first + row)) % 3));
      for (int64_t col = 0; col < k; ++col)
        rows[static_cast<size_t>(row * k + col)] =
            static_cast<float>(generated_integer(key, first + row, col, k)) * size;
    });
    quantize_weight(ConstView(rows.data(), Dtype::kF32, count, k), granularity,
                    View(weight.codes.data() + first * k, Dtype::kE4m3, count, k),
                    weight.scale.data() + weight_scales(granularity, first, k), "random weight", launch);
  }
  return weight;
}

}  // namespace samebits
