// Every file of tests/golden, replayed: what an H100 returned is what the reference, the CPU backend
// and the GPUs of this machine return today.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/choose.h"
#include "io/recording.h"
#include "numerics/reference.h"
#include "place.h"

namespace samebits::testing {
namespace {

std::vector<std::filesystem::path> golden_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SAMEBITS_GOLDEN_DIR))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

HostProblem copy(const RecordedCall& call) {
  const auto matrix = [](const ConstView& v) {
    Matrix m(v.dtype, v.rows, v.cols);
    for (int64_t r = 0; r < v.rows; ++r)
      std::memcpy(m.view().at(r, 0), v.at(r, 0), static_cast<size_t>(v.cols) * size_of(v.dtype));
    return m;
  };
  const auto scales = [](const Scales& s) {
    std::vector<float> values;
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t c = 0; c < s.cols; ++c) values.push_back(s.at(r, c));
    return values;
  };
  HostProblem p{call.order,           matrix(call.a), matrix(call.b), scales(call.scale_a),
                scales(call.scale_b), std::nullopt,   call.out.dtype};
  if (call.bias) p.bias = matrix(call.bias);
  return p;
}

class GoldenTest : public ::testing::TestWithParam<std::filesystem::path> {
 protected:
  // A file that is no recording fails here: nothing in the folder goes unread.
  Recording recording_ = Recording::open(GetParam());

  /// Every call through `compute`, on the host, against what was recorded.
  template <class Compute>
  void replay(Compute compute) {
    for (size_t i = 0; i < recording_.calls().size(); ++i) {
      const RecordedCall& call = recording_.calls()[i];
      Matrix out(call.out.dtype, call.out.rows, call.out.cols);
      compute(call.problem(out.view()));
      ASSERT_TRUE(same_bits(out.view(), call.out)) << "call " << i;
    }
  }
};

TEST_P(GoldenTest, SaysWhereItCameFrom) {
  ASSERT_FALSE(recording_.calls().empty());
  EXPECT_TRUE(recording_.metadata().count("device"));
  if (recording_.version() == 1) return;
  for (const char* key : {"driver", "date", "command"}) EXPECT_TRUE(recording_.metadata().count(key)) << key;
}

TEST_P(GoldenTest, ReferenceReturnsTheRecordedBits) {
  replay([](const GemmProblem& p) { reference_gemm(p); });
}

TEST_P(GoldenTest, CpuBackendReturnsTheRecordedBits) {
  replay([](const GemmProblem& p) { gemm(p); });
}

// On a GPU: what its rows take, with the row that choose() picks.
TEST_P(GoldenTest, GpusReturnTheRecordedBits) {
  for (const DeviceInfo* gpu : gpus()) {
    int replayed = 0;
    bool taken = false;
    for (size_t i = 0; i < recording_.calls().size(); ++i) {
      const RecordedCall& call = recording_.calls()[i];
      if (kernels(*gpu, call.order, call.out.dtype).empty()) continue;
      const int64_t step = alignment(call.order);
      taken = true;
      if (call.a.dtype == Dtype::kE5m2 || call.b.dtype == Dtype::kE5m2 || call.a.cols % step || call.b.rows % step)
        continue;
      const HostProblem p = copy(call);
      ASSERT_TRUE(same_bits(run(*gpu, p).view(), call.out)) << "call " << i;
      ++replayed;
    }
    EXPECT_EQ(replayed > 0, taken);
  }
}

// The control: with half the elements in a step the bits are not these bits, so the comparison has power.
TEST_P(GoldenTest, ControlAnotherOrderIsCaught) {
  bool caught = false;
  for (const RecordedCall& call : recording_.calls()) {
    OrderSpec other = spec(call.order);
    other.chunk /= 2;
    const int64_t k = call.a.cols, block = other.scale_block;
    if (block) other.promote_every = 0;  // one chain for each block
    const auto accumulate = [&](int64_t m, int64_t n) {
      if (!block) return reference_accumulate(other, call.a, m, call.b, n);
      float acc = 0.0f;
      for (int64_t j = 0; j * block < k; ++j) {
        const int64_t count = std::min(block, k - j * block);
        const float chain =
            reference_accumulate(other, call.a.slice_cols(j * block, count), m, call.b.slice_cols(j * block, count), n);
        acc = std::fma(chain, call.scale_a.at(m, j) * call.scale_b.at(n / block, j), acc);
      }
      return acc;
    };
    for (int64_t m = 0; m < call.out.rows && !caught; ++m)
      for (int64_t n = 0; n < call.out.cols && !caught; ++n) {
        const float acc = accumulate(m, n);
        const float bias = call.bias ? load(call.bias.dtype, call.bias.at(0, n)) : 0.0f;
        const float* given = call.bias ? &bias : nullptr;
        const float out = block ? reference_epilogue(acc, given)
                                : reference_epilogue(acc, call.scale_a.of_row(m), call.scale_b.of_row(n), given);
        Matrix one(call.out.dtype, 1, 1);
        store(call.out.dtype, one.view().at(0, 0), out);
        caught = !same_bits(one.view(), call.out.slice_rows(m, 1).slice_cols(n, 1));
      }
  }
  EXPECT_TRUE(caught);
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenTest, ::testing::ValuesIn(golden_files()),
                         [](const auto& info) { return info.param.stem().string(); });

}  // namespace
}  // namespace samebits::testing
