// The proof of a machine: for each Order and output kind the first row is held to the CPU backend, every other row to
// the first one, over the cases of prove_cases.cpp, a sweep of M and concurrent streams.
#include "samebits/prove.h"

#include <xxhash.h>

#include <algorithm>
#include <memory>

#include "core/check.h"
#include "core/choose.h"
#include "core/generator.h"
#include "core/prove.h"
#include "core/shapes.h"
#include "core/slice.h"
#include "cpu/gemm.h"
#include "numerics/formats.h"

namespace samebits {
namespace {

constexpr size_t kStreams = 4;
constexpr int64_t kAudited = 16;  // tokens of an M sweep that are held to the CPU backend
constexpr int64_t kCut = 128;     // where the control cuts K: at a block of scales, which could not be halved

/// Calls what runs the row. An error then says which row, and on what.
template <class Call>
auto named(const ProofRow& row, const std::string& what, Call&& call) {
  const auto text = [&](const std::exception& e) {
    return fmt::format("{} {}{}, {}: {}", name(row.order), row.name, row.fp32 ? " fp32" : "", what, e.what());
  };
  try {
    return call();
  } catch (const Error& e) {
    throw Error(e.code(), text(e));
  } catch (const std::exception& e) {
    throw Error(ErrorCode::kUnsupported, text(e));
  }
}

/// Rows of one Order that write the same type: the first is the one that the others are held to.
struct Group {
  std::vector<const ProofRow*> rows;
  std::vector<ProvedRow> proved;

  /// Those that take such a weight, by their place in `rows`: one that is no weight-only row gets an e4m3 weight
  /// widened.
  std::vector<size_t> taking(bool weight_only) const {
    std::vector<size_t> found;
    for (size_t i = 0; i < rows.size(); ++i)
      if (weight_only || !rows[i]->weight_only) found.push_back(i);
    return found;
  }
};

class OrderProof {
 public:
  OrderProof(const ProveOptions& options, const Place& place, Order order, const std::vector<ProofRow>& rows)
      : options_(options), place_(place), compare_(place) {
    result_.order = order;
    for (const ProofRow& row : rows) {
      if (row.order != order) continue;
      Group& group = groups_[row.fp32];
      group.rows.push_back(&row);
      group.proved.push_back({row.name, row.fp32, 0, 0, ""});
    }
  }

  /// Throws away nothing: what was found until a cancel is in result().
  template <class Progress>
  void run(const Progress& progress) {
    const ProofRow& probed = *front().rows.front();
    result_.unit = named(probed, "probes of the matrix unit", [&] { return probe_unit(place_, probed); });
    XXH3_state_t digest;
    XXH3_64bits_reset(&digest);
    // The weights of vLLM's own test. A CPU under proof does less: it takes seconds where a GPU takes milliseconds.
    const auto seeds = std::span(shapes::kSeed).first(place_.is_cpu() ? 1 : std::size(shapes::kSeed));
    for (int round = 0; round < options_.rounds; ++round) {
      std::vector<ProofCase> cases = proof_cases(round, result_.order);
      const size_t count = cases.size(), sweeps = weights().size() * (seeds.size() + 2);
      for (size_t i = 0; i < count; ++i) {
        if (!progress(round + 0.5 * static_cast<double>(i) / static_cast<double>(count), cases[i].what)) return;
        for (Group& group : groups_) run_case(group, cases[i], digest);
      }
      size_t swept = 0;
      const auto next = [&](const char* what) {
        return progress(round + 0.5 + 0.5 * static_cast<double>(swept++) / static_cast<double>(sweeps), what);
      };
      for (bool weight_only : weights()) {
        if (!next("M sweep")) return;
        const ProofCase sweep = sweep_case(round, result_.order, weight_only);
        for (Group& group : groups_) run_sweep(group, sweep, sweep_batches(round, kSweepSizes, sweep.m));
        for (const auto& [n, k] : seeds) {
          if (!next("M sweep")) return;
          // Among the cases, where the streams find it.
          const ProofCase& pool =
              cases.emplace_back(sweep_case(round, result_.order, weight_only, place_.is_cpu() ? 17 : 257, n, k));
          for (Group& group : groups_) run_sweep(group, pool, sweep_batches(round, kSeedSizes, pool.m));
        }
        if (!next("concurrent streams")) return;
        for (Group& group : groups_)
          if (!place_.is_cpu()) run_streams(group, cases, weight_only);
      }
    }
    result_.auditable = result_.cpu.differing == 0;
    result_.digest = XXH3_64bits_digest(&digest);
  }

  ProvedOrder result() {
    for (Group& group : groups_) result_.rows.insert(result_.rows.end(), group.proved.begin(), group.proved.end());
    return result_;
  }

  /// Outputs in which K in two halves, added in the output's type, differs from K whole under the same comparison.
  uint64_t control() {
    const ProofRow& row = *front().rows.front();
    const Dtype out = row.fp32 ? Dtype::kF32 : Dtype::kBf16;
    const ProofCase c = control_case(result_.order, row.weight_only);
    const OnPlace on(place_, c, out);
    const Memory whole = run_row(row, on, "the control");
    const int64_t cut = c.k / 2 / kCut * kCut;
    std::vector<std::byte> sums[2];
    for (int h = 0; h < 2; ++h) {
      Memory half = on.output();
      run_row(row, slice_k(on.problem(row, half), h ? cut : 0, h ? c.k - cut : cut), "the control");
      sums[h] = bytes_of(half);
    }
    for (size_t i = 0; i < sums[0].size(); i += size_of(out))
      store(out, &sums[0][i], load(out, &sums[0][i]) + load(out, &sums[1][i]));
    const Memory split = on.output(outputs(sums[0], c, out));
    // Without the guard rows: a write there is no difference of a sum.
    const auto sum_of = [&](const Memory& memory) { return all_of(memory, c, out).slice_rows(0, c.m); };
    return compare_(sum_of(split), sum_of(whole), 0).count;
  }

 private:
  /// What is compared: nobody may write into the padding of the rows either, or past the last one.
  static ConstView all_of(const Memory& memory, const ProofCase& c, Dtype out) {
    return ConstView(memory.data(), out, c.m + kGuardRows, c.out_stride, c.out_stride);
  }
  /// The outputs alone of such a memory's bytes.
  static ConstView outputs(const std::vector<std::byte>& bytes, const ProofCase& c, Dtype out) {
    return ConstView(bytes.data(), out, c.m, c.n, c.out_stride);
  }

  /// The rows that the unit and the control are seen through: those of fp32, which hide nothing, if there are any.
  const Group& front() const { return groups_[1].rows.empty() ? groups_[0] : groups_[1]; }

  /// Whether the weight is e4m3 beside 16-bit activations: what there is of it under the Order.
  std::vector<bool> weights() const {
    if (spec(result_.order).operands == Operands::kFp8) return {false};
    return {false, true};
  }

  Launch launch() const {
    Launch launch;
    launch.device = &place_.device(), launch.stream = place_.stream(), launch.threads = options_.threads;
    return launch;
  }

  void run_row(const ProofRow& row, const GemmProblem& problem, const std::string& what) const {
    named(row, what, [&] {
      row.run(problem, launch());
      place_.synchronize();
    });
  }

  Memory run_row(const ProofRow& row, const OnPlace& on, const std::string& what) const {
    Memory out = on.output();
    run_row(row, on.problem(row, out), what);
    return out;
  }

  /// Counts where a run of `m` rows of the case left another memory than it should.
  void count(ProvedRow& row, const Memory& got, const Memory& want, const ProofCase& c, Dtype out, int64_t m,
             const std::string& what) {
    const cuda::Difference difference = compare_(all_of(got, c, out), all_of(want, c, out), 0);
    const auto outputs = static_cast<uint64_t>(m * c.n), width = static_cast<uint64_t>(c.out_stride);
    row.outputs += outputs;
    row.differing += difference.count;
    if (!difference.count || !row.first.empty()) return;
    row.first = fmt::format("{}: {} of {} outputs, the first at [{},{}]", what, difference.count, outputs,
                            difference.first / width, difference.first % width);
  }

  /// The first `m` rows of the case on the CPU backend, in host memory.
  std::vector<std::byte> on_the_cpu(const ProofCase& c, Dtype out, int64_t m) const {
    static const Place cpu(cpu_device());
    const OnPlace on(cpu, c, out);
    Memory result = on.output();
    const ProofRow row{"cpu", result_.order, out == Dtype::kF32, {}, c.weight_only()};
    cpu::gemm(on.problem(row, result, 0, m), options_.threads);
    return bytes_of(result);
  }

  void run_case(Group& group, const ProofCase& c, XXH3_state_t& digest) {
    const std::vector<size_t> rows = group.taking(c.weight_only());
    if (rows.empty()) return;
    const ProofRow& reference = *group.rows[rows[0]];
    const Dtype out = reference.fp32 ? Dtype::kF32 : c.half;
    const OnPlace on(place_, c, out);
    Memory got = run_row(reference, on, c.what);
    const std::vector<std::byte> bytes = bytes_of(got);
    XXH3_64bits_update(&digest, bytes.data(), static_cast<size_t>(c.m * c.out_stride) * size_of(out));
    const Memory want = on.output(outputs(bytes, c, out)), cpu = on.output(outputs(on_the_cpu(c, out, c.m), c, out));
    // Not the first row's fault: another unit than the Order's, or an Order that is not the unit's.
    count(result_.cpu, cpu, want, c, out, c.m, c.what);
    for (size_t i : rows) {
      if (i != rows[0]) got = run_row(*group.rows[i], on, c.what);
      count(group.proved[i], got, want, c, out, c.m, c.what);
    }
  }

  /// Each row of the tables over batches of the pool, against the pool's rows alone by the first one, and some of
  /// these against the CPU. What a sweep computes is not in the digest.
  void run_sweep(Group& group, const ProofCase& pool, const std::vector<std::pair<int64_t, int64_t>>& batches) {
    const std::vector<size_t> rows = group.taking(pool.weight_only());
    if (rows.empty()) return;
    const ProofRow& reference = *group.rows[rows[0]];
    const Dtype out = reference.fp32 ? Dtype::kF32 : pool.half;
    const OnPlace on(place_, pool, out);
    Memory alone = on.output();
    for (int64_t row = 0; row < pool.m; ++row) {
      GemmProblem p = on.problem(reference, alone, row, 1);
      p.out.data = View(alone.data(), out, pool.m, pool.n, pool.out_stride).at(row, 0);
      run_row(reference, p, fmt::format("{}, row {} alone", pool.what, row));
    }
    const std::vector<std::byte> bytes = bytes_of(alone);
    for (const auto& [first, m] : batches) {
      const std::string what = fmt::format("{}, m={} from row {}", pool.what, m, first);
      const Memory want = on.output(outputs(bytes, pool, out).slice_rows(first, m));
      for (size_t i : rows) {
        Memory got = on.output();
        run_row(*group.rows[i], on.problem(*group.rows[i], got, first, m), what);
        count(group.proved[i], got, want, pool, out, m, what);
      }
    }
    const auto first_rows = [&](const std::vector<std::byte>& of) {
      return on.output(outputs(of, pool, out).slice_rows(0, kAudited));
    };
    count(result_.cpu, first_rows(on_the_cpu(pool, out, kAudited)), first_rows(bytes), pool, out, kAudited, pool.what);
  }

  /// Large cases of such a weight on four streams at once, against the first row alone: by one row on all of them, and
  /// by as many rows as there are streams.
  void run_streams(Group& group, const std::vector<ProofCase>& all, bool weight_only) {
    const std::vector<size_t> rows = group.taking(weight_only);
    if (rows.empty()) return;
    const ProofRow& reference = *group.rows[rows[0]];
    const std::vector<const ProofCase*> cases = largest_cases(all, weight_only, kStreams);
    cuda::Stream streams[kStreams];
    std::vector<std::unique_ptr<OnPlace>> on;
    std::vector<Memory> want;
    const auto dtype = [&](size_t s) { return reference.fp32 ? Dtype::kF32 : cases[s]->half; };
    const auto what = [&](size_t s) { return "concurrent streams, " + cases[s]->what; };
    for (size_t s = 0; s < kStreams; ++s) {
      on.push_back(std::make_unique<OnPlace>(place_, *cases[s], dtype(s)));
      const std::vector<std::byte> alone = bytes_of(run_row(reference, *on.back(), cases[s]->what));
      want.push_back(on.back()->output(outputs(alone, *cases[s], dtype(s))));
    }
    for (size_t apart : {0, 1})
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto row_on = [&](size_t s) { return rows[(i + apart * s) % rows.size()]; };
        std::vector<Memory> got;
        for (const auto& operands : on) got.push_back(operands->output());
        place_.synchronize();
        for (int repeat = 0; repeat < 3; ++repeat)
          for (size_t s = 0; s < kStreams; ++s) {
            Launch concurrent = launch();
            concurrent.stream = streams[s].get();
            const ProofRow& row = *group.rows[row_on(s)];
            named(row, what(s), [&] { row.run(on[s]->problem(row, got[s]), concurrent); });
          }
        for (size_t s = 0; s < kStreams; ++s) named(*group.rows[row_on(s)], what(s), [&] { streams[s].synchronize(); });
        for (size_t s = 0; s < kStreams; ++s)
          count(group.proved[row_on(s)], got[s], want[s], *cases[s], dtype(s), cases[s]->m, what(s));
      }
  }

  const ProveOptions& options_;
  const Place& place_;
  Comparison compare_;
  Group groups_[2];  // bf16 and fp16, fp32
  ProvedOrder result_;
};

/// Every row that the device can launch, the FIXED ones first; of the others for its architecture why not.
std::vector<ProofRow> rows_of(const DeviceInfo& device, std::vector<std::string>& left_out) {
  std::vector<ProofRow> rows;
  const auto fixed = cuda::fixed_tiles();
  for (bool first : {true, false})
    for (const Tile& tile : cuda::tiles()) {
      const bool is_fixed = std::find(fixed.begin(), fixed.end(), tile.name) != fixed.end();
      const bool fp32 = tile.out == OutKind::kFloat;
      if (tile.arch != device.arch || is_fixed != first) continue;
      if (const auto reason =
              reason_not(tile, device, kAlignment, kAlignment, kAlignment, fp32 ? Dtype::kF32 : Dtype::kBf16)) {
        left_out.push_back(*reason);
        continue;
      }
      const auto run = [&device, &tile](const GemmProblem& p, const Launch& launch) {
        gemm(p, choose_named(device, tile.name, p.m(), p.n(), p.k(), p.out.dtype), launch);
      };
      rows.push_back({std::string(tile.name), tile.order, fp32, run, tile.weight_only});
    }
  return rows;
}

std::string why_no_rows(const DeviceInfo& device, const std::vector<std::string>& left_out) {
  if (device.is_cpu())
    return std::string("there is nothing to prove without a GPU: the CPU backend is what rows are held to") +
           (cuda::archs().empty() ? "; this build has no GPU kernels (SAMEBITS_ARCHS)" : "");
  const std::string why = left_out.empty() ? reason_against(device.arch, Order::kHopperBf16, OutKind::kHalf)
                                                 .value_or("no row of this build fits the device")
                                           : left_out.front();
  return fmt::format("{}: {}", describe(device), why);
}

}  // namespace

bool ProvedOrder::same() const {
  return std::all_of(rows.begin(), rows.end(), [](const ProvedRow& row) { return row.differing == 0; });
}

uint64_t ProvedOrder::outputs() const {
  uint64_t sum = 0;
  for (const ProvedRow& row : rows) sum += row.outputs;
  return sum;
}

bool ProveReport::same() const {
  return control > 0 && !orders.empty() && !cancelled &&
         std::all_of(orders.begin(), orders.end(), [](const ProvedOrder& order) { return order.same(); });
}

bool ProveReport::complete() const { return same() && left_out.empty(); }

ProveReport prove(const ProveOptions& options) {
  if (options.rounds < 1) bad_input("{} rounds; a proof has one or more", options.rounds);
  ProveReport report;
  const std::vector<ProofRow> rows = options.rows.empty() ? rows_of(*options.device, report.left_out) : options.rows;
  std::vector<Order> orders;
  for (const OrderSpec& order : kOrders)
    if (std::any_of(rows.begin(), rows.end(), [&](const ProofRow& row) { return row.order == order.order; }))
      orders.push_back(order.order);
  if (orders.empty()) throw Error(ErrorCode::kNoDevice, why_no_rows(*options.device, report.left_out));
  const Place place(*options.device);
  for (size_t i = 0; i < orders.size(); ++i) {
    OrderProof proof(options, place, orders[i], rows);
    const auto progress = [&](double done, const std::string& what) {
      if (options.cancel && *options.cancel) return false;
      const double share = (static_cast<double>(i) + done / options.rounds) / static_cast<double>(orders.size());
      if (options.progress) options.progress(share, fmt::format("{} {}", name(orders[i]), what));
      return true;
    };
    proof.run(progress);
    report.cancelled = options.cancel && *options.cancel;
    report.orders.push_back(proof.result());
    if (report.cancelled) return report;
    const uint64_t control = proof.control();
    report.control = i == 0 ? control : std::min(report.control, control);
  }
  return report;
}

}  // namespace samebits
