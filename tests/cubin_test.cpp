// The machine code in the executable: for every architecture of the build one cubin for each of its rows and for each
// unit of small kernels, and nothing of another architecture. A row whose code is missing would be found by its first
// user, on a GPU that nobody here has.
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

std::map<int, int> expected() {
  constexpr int kSmallUnits = 4;  // quantize.cu, rows.cu, compare.cu, timing.cu
  std::map<int, int> count;
  std::istringstream archs(SAMEBITS_BUILT_ARCHS);
  for (std::string arch; std::getline(archs, arch, ',');) {
    const int number = std::stoi(arch);  // of 90a: 90
    count[number] = kSmallUnits;
    for (const Tile& tile : cuda::tiles()) count[number] += tile.arch == number;
  }
  return count;
}

TEST(CubinTest, EveryRowOfEveryArchitectureOfTheBuildHasItsCode) {
  const std::map<int, int> found = cubins_in(read_file(SAMEBITS_CLI_PATH));
  for (const auto& [arch, count] : found) fmt::print("sm_{}: {} cubins\n", arch, count);
  EXPECT_EQ(found, expected());
}

}  // namespace
}  // namespace samebits::testing
