// Runs a test once per SIMD target that the CPU backend was built for and this machine has.
#pragma once
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/gemm.h"

namespace samebits::testing {

inline std::vector<int64_t> simd_targets() {
  std::vector<int64_t> targets;
  for (int64_t left = cpu::simd_targets() & hwy::SupportedTargets(); left; left &= left - 1)
    targets.push_back(left & -left);
  return targets;
}

/// Sets the dispatch to one target for the test's duration.
class SimdTargetTest : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { use(GetParam()); }
  void TearDown() override { use(0); }

 private:
  static void use(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

#define SAMEBITS_PER_SIMD_TARGET(Suite)                                                           \
  INSTANTIATE_TEST_SUITE_P(Simd, Suite, ::testing::ValuesIn(::samebits::testing::simd_targets()), \
                           [](const auto& info) { return std::string(hwy::TargetName(info.param)); })

}  // namespace samebits::testing
