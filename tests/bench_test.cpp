// `samebits bench` on the CPU: its lines are JSON with the promised keys, and bad requests are refused before it
// starts.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli.h"

namespace samebits::testing {
namespace {

using Json = nlohmann::json;

TEST(BenchTest, WritesOneJsonObjectALine) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "bench_test.jsonl";
  const Ran ran =
      run_cli("bench --device cpu --shape 3,48,80 --order hopper-fast,ada-promoted --rounds 1 --json --out '" +
              path.string() + "' 2>/dev/null");
  ASSERT_EQ(ran.exit_code, 0);
  std::istringstream lines(ran.out);
  std::string line;
  int count = 0;
  for (; std::getline(lines, line); ++count) {
    const Json json = Json::parse(line);
    EXPECT_EQ(json["device"], "cpu");
    EXPECT_EQ(json["order"], count < 2 ? "hopper-fast" : "ada-promoted");
    EXPECT_EQ(json["kernel"], count % 2 ? "samebits" : "samebits:cpu");
    EXPECT_EQ(json["m"], 3);
    EXPECT_EQ(json["n"], 48);
    EXPECT_EQ(json["k"], 80);
    EXPECT_GT(json["us"], 0.0);
    EXPECT_EQ(json["same_bits"], true);
    for (const char* key : {"driver", "date", "shape", "gbps", "tflops"}) EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(count, 4);
  std::ostringstream file;
  file << std::ifstream(path).rdbuf();
  EXPECT_EQ(file.str(), ran.out);
  std::filesystem::remove(path);
}

TEST(BenchTest, BadRequestsAreRefusedWithTheReason) {
  const auto refused = [](const std::string& arguments, const std::string& reason) {
    const Ran ran = run_cli("bench --device cpu " + arguments + " 2>&1");
    EXPECT_EQ(ran.exit_code, 2) << arguments;
    EXPECT_NE(ran.out.find(reason), std::string::npos) << ran.out;
  };
  refused("--shape 64,5760", "--shape 64,5760");
  refused("--shape 0,16,16", "--shape 0,16,16");
  refused("--shape 1,16,16x", "--shape 1,16,16x");
  refused("--m 0", "--m 0");
  refused("--shapes llama9", "llama9");
  refused("--order hopper-quick", "hopper-quick");
  refused("--rounds 0", "--rounds");
  refused("--shape 1,16,16 --rounds 1 --out /nowhere/bench.jsonl", "/nowhere/bench.jsonl");
}

}  // namespace
}  // namespace samebits::testing
