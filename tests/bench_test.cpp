// `samebits bench` on the CPU: its lines are JSON with the promised keys, and bad requests are refused before it
// starts.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli.h"

namespace samebits::testing {
namespace {

using Json = nlohmann::json;

TEST(BenchTest, WritesOneJsonObjectALine) {
  const TempFolder folder;
  const std::string path = (folder / "bench.jsonl").string();
  std::vector<std::string> arguments =
      words("bench --device cpu --shape 3,48,80 --order hopper-fast,ada-promoted --rounds 1 --json --out");
  arguments.push_back(path);
  const CliRun ran = run_cli(arguments);
  ASSERT_EQ(ran.code, 0) << ran.err;
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
  EXPECT_EQ(read_file(path), ran.out);
}

TEST(BenchTest, ChosenTimesOnlyWhatWouldRunAndAppendAddsToTheFile) {
  const TempFolder folder;
  const std::string path = (folder / "bench.jsonl").string();
  std::string written;
  for (const char* how : {"", " --append", " --append", ""}) {
    const CliRun ran =
        run_cli(words("bench --device cpu --shape 3,48,80 --kernels chosen --rounds 1 --json --out " + path + how));
    ASSERT_EQ(ran.code, 0) << ran.err;
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 1);
    EXPECT_EQ(Json::parse(ran.out)["kernel"], "samebits");
    if (!*how) written.clear();
    written += ran.out;
    EXPECT_EQ(read_file(path), written);
  }
}

TEST(BenchTest, ALayerHasTheSameBitsFusedOrNotAtEveryM) {
  const CliRun ran = run_cli(words("bench --device cpu --layer qwen3-1.7b --m 1,3 --rounds 1 --json"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  std::istringstream lines(ran.out);
  std::string line;
  int count = 0;
  for (; std::getline(lines, line); ++count) {
    const Json json = Json::parse(line);
    EXPECT_EQ(json["layer"], "qwen3-1.7b");
    EXPECT_EQ(json["order"], "hopper-fast");
    EXPECT_EQ(json["m"], count < 2 ? 1 : 3);
    EXPECT_EQ(json["kernel"], count % 2 ? "samebits-unfused" : "samebits");
    EXPECT_EQ(json["weight_bytes"], 4096 * 2048 + 2048 * 2048 + 12288 * 2048 + 2048 * 6144);
    EXPECT_EQ(json["same_bits"], true);
    EXPECT_GT(json["us"], 0.0);
  }
  EXPECT_EQ(count, 4);
}

TEST(BenchTest, BadRequestsAreRefusedWithTheReason) {
  const auto refused = [](const std::string& arguments, const std::string& reason) {
    const CliRun ran = run_cli(words("bench --device cpu " + arguments));
    EXPECT_EQ(ran.code, 2) << arguments;
    EXPECT_NE(ran.err.find(reason), std::string::npos) << ran.err;
  };
  refused("--shape 64,5760", "--shape 64,5760");
  refused("--shape 0,16,16", "--shape 0,16,16");
  refused("--shape 1,16,16x", "--shape 1,16,16x");
  refused("--shape 1,9999999999,9999999999", "three numbers of 1 to 2147483647");
  refused("--shape 1,17,99999999999999999999", "three numbers of 1 to 2147483647");
  refused("--shape 1,2147483647,2147483647", "m=1 n=2147483647 k=2147483647 takes 4611686024.9 GB of memory; cpu has");
  refused("--shape 2147483647,2147483647,1", "GB of memory");
  refused("--m 0", "--m 0");
  refused("--m 1,2147483648", "--m 2147483648: it takes numbers of 1 to 2147483647");
  refused("--m 99999999999999999999", "--m");
  refused("--shape 1,16,16 --kernels nope",
          "--kernels nope: no such row of these Orders on cpu; there are: all, chosen, cpu");
  refused("--shape 1,16,16 --kernels cpu,nope", "--kernels nope");
  refused("--shapes llama9", "llama9");
  refused("--order hopper-quick", "hopper-quick");
  refused("--rounds 0", "--rounds");
  refused("--overlap all", "unknown overlap 'all'; there are: none, launch, weight, chain");
  refused("--layer seed", "seed is not qkv, o, gate_up and down of one layer");
  refused("--layer qwen3-1.7b --m 2147483647", "GB of memory");
  refused("--layer qwen3-1.7b --shape 1,16,16", "excludes");
  refused("--append", "--append requires --out");
  refused("--shape 1,16,16 --rounds 1 --out /nowhere/bench.jsonl", "/nowhere/bench.jsonl");
}

}  // namespace
}  // namespace samebits::testing
