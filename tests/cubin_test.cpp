// The machine code in the executable and in the torch extension: for every architecture of the build one cubin for each
// of its rows and for each unit of small kernels, and nothing of another architecture. A row whose code is missing
// would be found by its first user, on a GPU that nobody here has. And no more of it than the budget below.
#include <cstring>
#include <map>
#include <numeric>
#include <sstream>
#include <vector>

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

// What a full build compiles and every user downloads, by architecture. A CUTLASS row is 80 s of everybody's build, one
// of our own 5 to 8 s. Kernels are those of the rows and of the small units, whose templates no table shows: rows.cu
// has 108 for each architecture, which is more code than all rows together.
struct Budget {
  int rows, kernels;
};
const std::map<int, Budget> kBudget = {{80, {8, 148}},  {86, {8, 148}},  {89, {16, 160}}, {90, {112, 290}},
                                       {100, {4, 136}}, {103, {4, 136}}, {120, {6, 138}}};
constexpr char kOverBudget[] =
    "it costs everybody build time and size: if it is worth that, raise kBudget in cubin_test.cpp";

/// Kernels of the cubin at `elf`: each has a section of code, .text.NAME. 0 where the cubin is compressed.
int kernels_of(const std::string& bytes, size_t elf) {
  if (bytes.compare(elf, 4, "\177ELF") != 0) return 0;
  const size_t sections = elf + at<uint64_t>(bytes, elf + 40), size = at<uint16_t>(bytes, elf + 58);
  const auto offset = [&](int section) { return elf + at<uint64_t>(bytes, sections + section * size + 24); };
  const size_t names = offset(at<uint16_t>(bytes, elf + 62));
  int kernels = 0;
  for (int i = 0; i < at<uint16_t>(bytes, elf + 60); ++i)
    kernels += bytes.compare(names + at<uint32_t>(bytes, sections + i * size), 6, ".text.") == 0;
  return kernels;
}

/// The kernels of each cubin, by architecture. A fat binary: magic 0xba55ed50, u16 version 1, u16 bytes of this header
/// 16, u64 bytes of its entries; an entry: u16 kind (1 PTX, 2 cubin), u32 bytes of this header at 4, u64 bytes of the
/// code at 8, u32 architecture at 28. Not documented by NVIDIA; `cuobjdump --list-elf` prints the same list.
std::map<int, std::vector<int>> cubins_in(const std::string& executable) {
  const std::string magic("\x50\xed\x55\xba\x01\x00\x10\x00", 8);
  std::map<int, std::vector<int>> found;
  for (size_t i = executable.find(magic); i != std::string::npos; i = executable.find(magic, i + 16)) {
    if (i + 16 > executable.size()) break;
    const size_t end = i + 16 + at<uint64_t>(executable, i + 8);
    if (end > executable.size()) continue;  // the eight bytes by chance
    for (size_t p = i + 16; p + 64 <= end;) {
      const size_t code = p + at<uint32_t>(executable, p + 4);
      if (at<uint16_t>(executable, p) == 2)
        found[static_cast<int>(at<uint32_t>(executable, p + 28))].push_back(kernels_of(executable, code));
      p = code + at<uint64_t>(executable, p + 8);
    }
  }
  return found;
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
  std::map<int, int> cubins;
  for (const auto& [arch, kernels] : cubins_in(read_file(file))) {
    cubins[arch] = static_cast<int>(kernels.size());
    const int sum = std::accumulate(kernels.begin(), kernels.end(), 0);
    fmt::print("sm_{}: {} cubins, {} kernels\n", arch, kernels.size(), sum);
    EXPECT_EQ(std::ranges::count(kernels, 0), 0) << "sm_" << arch << ": cubins that are compressed or have no kernel";
    ASSERT_TRUE(kBudget.contains(arch)) << "sm_" << arch << " has no budget in cubin_test.cpp";
    EXPECT_LE(sum, kBudget.at(arch).kernels) << "kernels of sm_" << arch << "; " << kOverBudget;
  }
  EXPECT_EQ(cubins, expected(small_units)) << file;
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

TEST(CubinTest, TheRowsOfTheTablesStayWithinTheirBudget) {
  std::map<int, int> rows;
  for (const Tile& tile : cuda::tiles()) ++rows[tile.arch];
  for (const auto& [arch, count] : rows) {
    ASSERT_TRUE(kBudget.contains(arch)) << "sm_" << arch << " has no budget in cubin_test.cpp";
    EXPECT_LE(count, kBudget.at(arch).rows) << "rows of sm_" << arch << "; " << kOverBudget;
  }
}

}  // namespace
}  // namespace samebits::testing
