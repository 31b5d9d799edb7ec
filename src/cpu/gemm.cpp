// Partition of the GEMM into row blocks and panels of channels, and the choice of the SIMD target. Called through
// gemm.h. K is never partitioned across threads: each accumulator is advanced in order of K by one thread at a time.
#include "cpu/gemm.h"

#include <algorithm>

#include "cpu/chain.h"
#include "cpu/half.h"
#include "cpu/parallel.h"
#include "cpu/wide.h"
#include "numerics/reference.h"

#define HWY_WANT_AVX3_DL
#define HWY_COMPILE_ALL_ATTAINABLE  // also the targets below the compiler's baseline, which the tests run
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // vectors without a size
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemm.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/aligned_allocator.h>

#include "cpu/half-inl.h"
#include "cpu/panel-inl.h"

#if HWY_ONCE
namespace samebits::cpu {
namespace {

HWY_EXPORT(Backend);
HWY_EXPORT(Half);

PackedRows pack_rows(const GemmProblem& problem, const ChainBackend& backend, int64_t first, int64_t count,
                     int threads) {
  const OrderSpec& order = spec(problem.order);
  const ConstView a = problem.a.slice_rows(first, count);
  const int64_t k = a.cols, quads = (k + order.chunk - 1) / order.chunk * (order.chunk / 4);
  const int shift = order.align_bits - format_of(a.dtype).fraction_bits - format_of(problem.b.dtype).fraction_bits +
                    backend.significand_shift;
  const CodeTable table = code_table(format_of(a.dtype), kExponentBiasA, shift, 0, -2);
  PackedRows packed{first, count, quads * kQuadWords, {}, {}};
  packed.words.resize(static_cast<size_t>(count * packed.row_words));
  packed.special.resize(static_cast<size_t>(count));
  parallel_for(count, 8, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int32_t* words = packed.words.data() + r * packed.row_words;
      bool special = false;
      for (int64_t q = 0; q < quads; ++q) {
        const int present = static_cast<int>(std::clamp<int64_t>(k - 4 * q, 0, 4));
        const auto* codes = static_cast<const uint8_t*>(a.at(r, 0)) + 4 * q * a.col_stride;
        special |= pack_quad(table, codes, a.col_stride, present, words + q * kQuadWords);
      }
      packed.special[static_cast<size_t>(r)] = special;
    }
  });
  return packed;
}

PackedHalf pack_half(const GemmProblem& problem, const HalfBackend&, int64_t first, int64_t count, int threads) {
  const int64_t chunk = spec(problem.order).chunk;
  const ConstView a = problem.a.slice_rows(first, count);
  const uint32_t smallest = smallest_power(a.dtype);
  PackedHalf packed{first, count, 2 * ((a.cols + chunk - 1) / chunk * chunk), {}, {}};
  packed.elements.resize(static_cast<size_t>(count * packed.row_doubles));
  packed.special.resize(static_cast<size_t>(count));
  parallel_for(count, 8, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      double* row = packed.elements.data() + r * packed.row_doubles;
      bool special = false;
      for (int64_t k = 0; k < a.cols; ++k) {
        const HalfElement x = half_element(load(a.dtype, a.at(r, k)), smallest);
        double* step = row + k / chunk * 2 * chunk + k % chunk;
        step[0] = x.value, step[chunk] = x.power;
        special |= x.special;
      }
      packed.special[static_cast<size_t>(r)] = special;
    }
  });
  return packed;
}

// Blocks of packed rows against panels of channels; `pack` and `backend` are of one operand width.
template <class Backend, class Pack>
void run(const GemmProblem& problem, int threads, int64_t block_m, const Backend& backend, const Pack& pack) {
  const int64_t panels = (problem.n() + backend.lanes - 1) / backend.lanes;
  for (int64_t first = 0; first < problem.m() && panels > 0; first += block_m) {
    const auto rows = pack(problem, backend, first, std::min(block_m, problem.m() - first), threads);
    parallel_for(panels, 4, threads, [&](int64_t begin, int64_t end) {
      const auto scratch = hwy::AllocateAligned<uint8_t>(backend.scratch_bytes);
      for (int64_t p = begin; p < end; ++p) backend.run_panel(problem, rows, p * backend.lanes, scratch.get());
    });
  }
}

}  // namespace

int64_t simd_targets() { return HWY_TARGETS; }

void gemm(const GemmProblem& problem, int threads) {
  if (spec(problem.order).operands == Operands::kHalf)
    run(problem, threads, kHalfBlockM, HWY_DYNAMIC_DISPATCH(Half)(), pack_half);
  else if (!fits_lanes(spec(problem.order)))
    wide_gemm(problem, threads);
  else
    run(problem, threads, kBlockM, HWY_DYNAMIC_DISPATCH(Backend)(), pack_rows);
}

}  // namespace samebits::cpu
#endif  // HWY_ONCE
