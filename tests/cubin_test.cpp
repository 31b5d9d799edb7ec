// The machine code in the executable and in the torch extension: for every architecture of the build one cubin for each
// of its rows and for each unit of small kernels, and nothing of another architecture. A row whose code is missing
// would be found by its first user, on a GPU that nobody here has.
#include <cstring>
#include <map>
#include <sstream>

#include "cuda/tile.h"
#include "files.h"

namespace samebits::testing {
namespace {

template <class T>
T at(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// Cubins by architecture. A fat binary: magic 0xba55ed50, u16 version 1, u16 bytes of this header 16, u64 bytes of its
/// entries; an entry: u16 kind (1 PTX, 2 cubin), u32 bytes of this header at 4, u64 bytes of the code at 8, u32
/// architecture at 28. Not documented by NVIDIA; `cuobjdump --list-elf` prints the same list.
std::map<int, int> cubins_in(const std::string& executable) {
  const std::string magic("\x50\xed\x55\xba\x01\x00\x10\x00", 8);
  std::map<int, int> count;
  for (size_t i = executable.find(magic); i != std::string::npos; i = executable.find(magic, i + 16)) {
    if (i + 16 > executable.size()) break;
    const size_t end = i + 16 + at<uint64_t>(executable, i + 8);
    if (end > executable.size()) continue;  // the eight bytes by chance
    for (size_t p = i + 16; p + 64 <= end;) {
      if (at<uint16_t>(executable, p) == 2) ++count[static_cast<int>(at<uint32_t>(executable, p + 28))];
      p += at<uint32_t>(executable, p + 4) + at<uint64_t>(executable, p + 8);
    }
  }
  return count;
}

std::map<int, int> expected(int small_units) {
  std::map<int, int> count;
  std::istringstream archs(SAMEBITS_BUILT_ARCHS);
  for (std::string arch; std::getline(archs, arch, ',');) {
    const int number = std::stoi(arch);  // of 90a: 90
    count[number] = small_units;
    for (const Tile& tile : cuda::tiles()) count[number] += tile.arch == number;
  }
  return count;
}

void expect_code(const std::string& file, int small_units) {
  const std::map<int, int> found = cubins_in(read_file(file));
  for (const auto& [arch, count] : found) fmt::print("sm_{}: {} cubins\n", arch, count);
  EXPECT_EQ(found, expected(small_units)) << file;
}

TEST(CubinTest, EveryRowOfEveryArchitectureOfTheBuildHasItsCode) {
  if (expected(0).empty()) GTEST_SKIP() << "a build without CUDA (SAMEBITS_ARCHS)";
  expect_code(SAMEBITS_CLI_PATH, 4);  // quantize.cu, rows.cu, compare.cu, timing.cu
}

TEST(CubinTest, TheTorchExtensionHasThemToo) {
  if (expected(0).empty()) GTEST_SKIP() << "a build without CUDA (SAMEBITS_ARCHS)";
  const std::string extension = SAMEBITS_EXTENSION;
  if (extension.empty()) GTEST_SKIP() << "a build without torch (SAMEBITS_TORCH)";
  expect_code(extension, 3);  // nothing in it times kernels
}

// What a full build compiles: every row is minutes of somebody's build and 40 to 120 KB of everybody's library. Raise a
// figure here if the row is worth that.
TEST(CubinTest, TheRowsOfTheTablesStayWithinTheirBudget) {
  const std::map<int, int> budget = {{80, 8}, {86, 8}, {89, 16}, {90, 96}, {100, 4}, {103, 4}, {120, 6}};
  std::map<int, int> rows;
  for (const Tile& tile : cuda::tiles()) ++rows[tile.arch];
  for (const auto& [arch, count] : rows) {
    ASSERT_TRUE(budget.contains(arch)) << "sm_" << arch << " has no budget";
    EXPECT_LE(count, budget.at(arch)) << "sm_" << arch;
  }
}

}  // namespace
}  // namespace samebits::testing
