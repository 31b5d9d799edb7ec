// One layer's proof: every row alone, then every row of every batch against its bits alone, on either backend.
#include "core/verify_layer.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "numerics/formats.h"
#include "samebits/quantize.h"

namespace samebits {

std::vector<int64_t> positions(int64_t m) {
  std::vector<int64_t> p = {0, m / 2, m - 1};
  p.erase(std::unique(p.begin(), p.end()), p.end());
  return p;
}

Plan LayerProof::plan(Order order, int64_t m, Dtype dtype, bool weight_only) const {
  return choose(place_.device(), order, m, n_padded_, k_padded_, dtype, setup_.options.rules, weight_only);
}

/// For rows alone: of a 16-bit Order the row that widens the weight, where there is one.
Plan LayerProof::plan_alone(Order order, Dtype dtype) const {
  if (spec(order).operands == Operands::kHalf) {
    try {
      return plan(order, 1, dtype, true);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kUnsupported) throw;
    }
  }
  return plan(order, 1, dtype, false);
}

std::vector<Plan> LayerProof::plans(Order order, int64_t m, Dtype dtype) const {
  const DeviceInfo& device = place_.device();
  std::vector<Plan> all;
  if (setup_.options.all_kernels)
    for (std::string_view kernel : kernels(device, order, dtype)) {
      try {
        all.push_back(choose_named(device, kernel, m, n_padded_, k_padded_, dtype));
      } catch (const Error& e) {
        if (e.code() != ErrorCode::kUnsupported) throw;  // a row that cannot run this shape has nothing to prove
      }
    }
  if (!all.empty()) return all;
  all.push_back(plan(order, m, dtype, false));
  if (const Plan alone = plan_alone(order, dtype); alone.tile && alone.tile->weight_only)
    all.push_back(plan(order, m, dtype, true));
  return all;
}

GemmProblem LayerProof::problem(const Plan& plan, Order order, int64_t first_row, int64_t m, View out) const {
  GemmProblem p;
  p.order = order;
  p.a = ConstView(a_.data(), pool_dtype_, 2 * setup_.pool_rows, k_padded_).slice_rows(first_row, m);
  p.b = plan.tile && !plan.tile->weight_only && spec(order).operands == Operands::kHalf ? wide_ : b_;
  if (!pool_scale_.empty()) p.scale_a = token_scales(static_cast<const float*>(scale_a_.data()), first_row, m);
  p.scale_b = channel_scales(static_cast<const float*>(scale_b_.data()), n_padded_);
  if (layer_.bias) p.bias = ConstView(bias_.data(), out.dtype, 1, n_padded_);
  p.out = out;
  return p;
}

View LayerProof::output(const Memory& memory, Dtype dtype, int64_t rows) const {
  return View(memory.data(), dtype, rows, n_padded_);
}

void LayerProof::run(const GemmProblem& problem, const Plan& plan, bool under_proof) {
  if (setup_.options.cancel && setup_.options.cancel->load()) throw Cancelled{};
  if (plan.workspace_bytes > static_cast<int64_t>(workspace_.size())) {
    place_.synchronize();  // a kernel may still use the smaller one
    workspace_ = Memory(place_, static_cast<size_t>(plan.workspace_bytes));
  }
  const Launch launch{&place_.device(), place_.stream(), workspace_.data(), static_cast<int64_t>(workspace_.size()),
                      setup_.options.threads};
  if (under_proof && setup_.options.schedule)
    setup_.options.schedule(problem, plan, launch);
  else
    gemm(problem, plan, launch);
}

void LayerProof::advance(int64_t rows, const VerifyResult& result) {
  rows_done_ += rows;
  setup_.advance(layer_.name, result.order, static_cast<double>(rows_done_) / static_cast<double>(rows_total_),
                 result.batches.outputs + result.sample.outputs);
}

void LayerProof::compute_alone(Order order, Dtype dtype, VerifyResult& result) {
  const Plan plan = plan_alone(order, dtype);
  alone_.fill(0x5a);  // not what out_ is filled with: an element that neither run writes must differ
  for (int64_t row = 0; row < setup_.pool_rows; ++row) {
    run(problem(plan, order, row, 1, output(alone_, dtype, setup_.pool_rows).slice_rows(row, 1)), plan, true);
    advance(1, result);
  }
  place_.synchronize();
}

void LayerProof::compare_batches(Order order, Dtype dtype, VerifyResult& result) {
  const int64_t pool = setup_.pool_rows;
  const ConstView alone = ConstView(output(alone_, dtype, pool)).slice_cols(0, n_);
  for (int64_t m : setup_.batches)
    for (const Plan& plan : plans(order, m, dtype)) {
      if (std::find(result.kernels.begin(), result.kernels.end(), plan.kernel) == result.kernels.end())
        result.kernels.emplace_back(plan.kernel);
      for (int64_t position : positions(m)) {
        const int64_t first_row = (pool - position) % pool;
        const View out = output(out_, dtype, m);
        out_.fill(0xa5);  // a row that no kernel writes must not keep an old answer
        run(problem(plan, order, first_row, m, out), plan, true);
        const cuda::Difference difference = compare_(ConstView(out).slice_cols(0, n_), alone, first_row);
        result.batches += {static_cast<uint64_t>(m * n_), difference.count};
        if (difference.count && !result.first) explain(difference, dtype, m, position, plan.kernel, result);
        advance(m, result);
      }
    }
}

void LayerProof::explain(const cuda::Difference& difference, Dtype dtype, int64_t m, int64_t position,
                         std::string_view kernel, VerifyResult& result) const {
  FirstDifference d;
  d.row = static_cast<int64_t>(difference.first) / n_;
  d.col = static_cast<int64_t>(difference.first) % n_;
  d.dtype = dtype;
  d.pool_row = (setup_.pool_rows - position + d.row) % setup_.pool_rows;
  d.batch = m;
  d.position = position;
  d.kernel = kernel;
  d.against = "the same row alone";
  uint16_t got = 0, want = 0;
  out_.download(&got, sizeof got, static_cast<size_t>(d.row * n_padded_ + d.col) * sizeof got);
  alone_.download(&want, sizeof want, static_cast<size_t>(d.pool_row * n_padded_ + d.col) * sizeof want);
  d.got = got;
  d.want = want;
  d.ulps = ulps(dtype, got, want);
  result.first = d;
}

std::vector<std::byte> LayerProof::download_alone(Dtype dtype) const {
  const size_t row = static_cast<size_t>(n_) * size_of(dtype), stride = static_cast<size_t>(n_padded_) * size_of(dtype);
  std::vector<std::byte> rows(kDigestRows * row);
  for (size_t i = 0; i < kDigestRows; ++i) alone_.download(rows.data() + i * row, row, i * stride);
  return rows;
}

VerifyResult LayerProof::prove(Order order) {
  VerifyResult result;
  result.layer = layer_.name;
  result.n = n_;
  result.k = k_;
  result.order = order;
  rows_done_ = rows_total_ = 0;
  for (Dtype dtype : setup_.dtypes) {
    rows_total_ += setup_.pool_rows;
    for (int64_t m : setup_.batches)
      rows_total_ += m * static_cast<int64_t>(positions(m).size() * plans(order, m, dtype).size());
  }
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (Dtype dtype : setup_.dtypes) {
    load_operands(order, dtype);
    load_bias(dtype);
    compute_alone(order, dtype, result);
    const std::vector<std::byte> alone = download_alone(dtype);
    XXH3_64bits_update(&state, alone.data(), alone.size());
    compare_batches(order, dtype, result);
    compare_sample(order, dtype, alone, result);
    compare_control(dtype, split_accumulators(order), result);
  }
  result.digest = XXH3_64bits_digest(&state);
  return result;
}

}  // namespace samebits
