// The command line as a script sees it: the last line of stdout, the exit codes, and a clear error for every bad input.
#include <chrono>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "bits.h"
#include "cli.h"
#include "core/generator.h"
#include "io/recording.h"
#include "samebits/rules.h"

namespace samebits {
namespace {

using namespace samebits::testing;
using nlohmann::json;

std::string text_of(const std::vector<uint8_t>& codes) { return std::string(codes.begin(), codes.end()); }

/// An FP8 linear layer called `name`: 32 channels, K = 64.
std::vector<NewTensor> linear(const std::string& name) {
  const RandomWeight w = generate_weight(generator_key(0, name), 32, 64, 1);
  return {{name + ".weight", "F8_E4M3", {32, 64}, text_of(w.codes)},
          {name + ".weight_scale", "F32", {32, 1}, floats(w.scale)}};
}

/// A file with the layers "a" and "b".
std::string tiny_checkpoint(const TempFolder& folder) {
  std::vector<NewTensor> tensors = linear("a");
  for (NewTensor& t : linear("b")) tensors.push_back(t);
  write_safetensors(folder / "tiny.safetensors", tensors);
  return (folder / "tiny.safetensors").string();
}

CliRun verify_cpu(std::vector<std::string> args) {
  args.insert(args.begin(), {"verify", "--device", "cpu"});
  return run_cli(args);
}

void expect_refused(const CliRun& run, std::string_view why) {
  EXPECT_EQ(run.code, 2) << run.err;
  EXPECT_NE(run.err.find(why), std::string::npos) << run.err << "\nlacks: " << why;
  EXPECT_EQ(run.out.find("outputs differ"), std::string::npos) << run.out;
}

TEST(CliTest, TheVerdictIsTheLastLineAndTheExitCodeZero) {
  const TempFolder folder;
  const CliRun run = verify_cpu({tiny_checkpoint(folder)});
  EXPECT_EQ(run.code, 0) << run.err;
  // 2 layers, 2 orders, 2 dtypes; each row of each window, and 52 sampled outputs.
  const int64_t rows = 1 + 2 * 2 + 3 * (8 + 16 + 17 + 32 + 64 + 65);
  const json report = json::parse(read_file([&] {
    run_cli({"verify", "--device", "cpu", "--json=" + (folder / "r.json").string(),
             (folder / "tiny.safetensors").string()});
    return folder / "r.json";
  }()));
  const int64_t sampled = report["sample"]["outputs"];
  EXPECT_GT(sampled, 0);
  EXPECT_EQ(run.last_line(), fmt::format("0 of {} outputs differ", 2 * 2 * 2 * 32 * rows + sampled));
  EXPECT_EQ(report["verdict"], run.last_line());
  EXPECT_NE(run.out.find("caught by the same comparison"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find(report["digest"]), std::string::npos);
  EXPECT_EQ(run.out.find('\r'), std::string::npos);  // no progress bar where there is no terminal
  EXPECT_EQ(run.err, "");
}

TEST(CliTest, WithoutACaughtControlTheExitCodeIsOne) {
  const TempFolder folder;
  write_safetensors(folder / "zero.safetensors", {{"a.weight", "F8_E4M3", {32, 64}, std::string(32 * 64, '\0')},
                                                  {"a.weight_scale", "F32", {}, floats({1.0f})}});
  const CliRun run = verify_cpu({(folder / "zero.safetensors").string(), "--batches", "2"});
  EXPECT_EQ(run.code, 1) << run.err;
  EXPECT_EQ(run.last_line(), "the control was not caught: nothing is proven");
}

TEST(CliTest, JsonIsOneLineBeforeTheVerdict) {
  const TempFolder folder;
  const CliRun run =
      verify_cpu({"--json", tiny_checkpoint(folder), "--order", "ada-fast", "--dtype", "bf16", "--batches", "1,3"});
  EXPECT_EQ(run.code, 0) << run.err;
  const size_t end = run.out.find('\n');
  const json report = json::parse(run.out.substr(0, end));
  EXPECT_EQ(run.out.substr(end + 1), report["verdict"].get<std::string>() + "\n");
  EXPECT_EQ(report["format"], "samebits-verify");
  EXPECT_EQ(report["layers"].size(), 2u);
  EXPECT_EQ(report["layers"][0]["name"], "a");
  EXPECT_EQ(report["layers"][0]["order"], "ada-fast");
  EXPECT_EQ(report["layers"][0]["first_difference"], nullptr);
  EXPECT_EQ(report["batches"], json({1, 3}));
  EXPECT_TRUE(report["control"]["caught"]);
  EXPECT_TRUE(report["passed"]);
}

TEST(CliTest, TheDigestIgnoresThreadsAndBatches) {
  const TempFolder folder;
  const std::string path = tiny_checkpoint(folder);
  const auto digest = [&](std::vector<std::string> args) {
    args.insert(args.end(), {"--json", path});
    const CliRun run = verify_cpu(args);
    return json::parse(run.out.substr(0, run.out.find('\n')))["digest"].get<std::string>();
  };
  const std::string once = digest({});
  EXPECT_EQ(once.size(), 16u);
  EXPECT_EQ(digest({"--threads", "1", "--batches", "7"}), once);
  EXPECT_EQ(digest({"--threads", "3", "--kernels", "all"}), once);
  EXPECT_NE(digest({"--seed", "1"}), once);
}

TEST(CliTest, WhatIsNotCoveredIsNamed) {
  const TempFolder folder;
  std::vector<NewTensor> tensors = linear("a");
  for (NewTensor& t : linear("model.layers.0.mlp.experts.3.up_proj")) tensors.push_back(t);
  write_safetensors(folder / "moe.safetensors", tensors);
  const CliRun run = verify_cpu({(folder / "moe.safetensors").string(), "--batches", "2"});
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(std::regex_search(run.out, std::regex("not covered: model.layers.0.mlp.experts.3.up_proj.*expert")))
      << run.out;
}

TEST(CliTest, ActivationsFromAFile) {
  const TempFolder folder;
  const std::string path = tiny_checkpoint(folder), x = (folder / "x.safetensors").string();
  write_safetensors(x, {{"any", "F32", {3, 64}, floats(generate_activations(1, 3, 64, 1))}});
  EXPECT_EQ(verify_cpu({path, "--activations", x, "--batches", "5"}).code, 0);
  write_safetensors(x, {{"any", "F32", {3, 65}, floats(std::vector<float>(195))}});
  expect_refused(verify_cpu({path, "--activations", x}), "takes [M,64]");
  write_safetensors(x, {{"a", "F32", {1, 64}, floats(std::vector<float>(64))},
                        {"c", "F32", {1, 64}, floats(std::vector<float>(64))}});
  expect_refused(verify_cpu({path, "--activations", x}), "no tensor called b");
}

TEST(CliTest, BadFilesAreRefusedByName) {
  const TempFolder folder;
  const std::string good = tiny_checkpoint(folder), bad = (folder / "bad.safetensors").string();
  expect_refused(verify_cpu({(folder / "none.safetensors").string()}), "none.safetensors");
  write_file(bad, read_file(good).substr(0, 1000));
  expect_refused(verify_cpu({bad}), "bad.safetensors");
  write_file(bad, "");
  expect_refused(verify_cpu({bad}), "bad.safetensors");
  write_safetensors(bad, {{"a.weight", "F32", {2, 2}, floats({1, 2, 3, 4})}});
  expect_refused(verify_cpu({bad}), "no FP8 linear layer found");
  std::vector<NewTensor> tensors = linear("a");
  tensors[1].type = "I32";
  write_safetensors(bad, tensors);
  expect_refused(verify_cpu({bad}), "a: weight_scale is I32");
  tensors = linear("a");
  tensors[0].bytes[64 * 5 + 7] = static_cast<char>(0xff);
  write_safetensors(bad, tensors);
  expect_refused(verify_cpu({bad}), "a.weight[5,7]");
}

TEST(CliTest, BadRequestsAreRefused) {
  const TempFolder folder;
  const std::string good = tiny_checkpoint(folder);
  expect_refused(run_cli({}), "subcommand");
  expect_refused(run_cli({"verify"}), "a checkpoint or --shapes");
  expect_refused(run_cli({"verify", good, "--no-such-option"}), "--no-such-option");
  expect_refused(run_cli({"verify", good, "--shapes", "seed"}), "excludes");
  expect_refused(verify_cpu({"--shapes", "gpt"}), "llama3-8b");
  expect_refused(verify_cpu({good, "--order", "hopper"}), "unknown order 'hopper'; there are: hopper-fast");
  expect_refused(verify_cpu({good, "--dtype", "fp32"}), "bf16, fp16");
  expect_refused(verify_cpu({good, "--batches", "0"}), "a batch of 0 rows");
  expect_refused(verify_cpu({good, "--kernels", "some"}), "some");
  expect_refused(run_cli({"verify", good, "--device", "gpu"}), "unknown device 'gpu'");
  expect_refused(run_cli({"verify", good, "--device", "cuda:x"}), "unknown device");
  const size_t gpus = cuda_devices().size();
  expect_refused(run_cli({"verify", good, "--device", fmt::format("cuda:{}", gpus)}),
                 gpus ? fmt::format("this machine has {} CUDA devices", gpus) : "this machine has no CUDA device");
}

TEST(CliTest, WithoutAGpuAutoSaysThatItIsTheCpu) {
  const TempFolder folder;
  const CliRun run = run_cli({"verify", tiny_checkpoint(folder), "--batches", "2"});
  EXPECT_EQ(run.code, 0) << run.err;
  bool usable = false;
  for (const DeviceInfo& gpu : cuda_devices()) usable |= !kernels(gpu, Order::kHopperFast).empty();
  EXPECT_EQ(run.err.find("running on the CPU: ") == std::string::npos, usable) << run.err;
}

TEST(CliTest, AFullDiskLosesNothingInSilence) {
  const TempFolder folder;
  const std::string good = tiny_checkpoint(folder);
  const CliRun full = run_cli({"verify", good, "--device", "cpu", "--batches", "2"}, {}, "/dev/full");
  EXPECT_EQ(full.code, 2);
  EXPECT_NE(full.err, "");
}

TEST(CliTest, AnOutputThatCannotBeWrittenIsRefusedBeforeTheWork) {
  const TempFolder folder;
  const std::string json = "--json=" + (folder / "no/such/folder/r.json").string();
  expect_refused(verify_cpu({tiny_checkpoint(folder), json}), "r.json");
  write_safetensors(folder / "in.safetensors", {{"a.weight", "F32", {1, 2}, floats({1, 2})}});
  expect_refused(run_cli({"quantize", (folder / "in.safetensors").string(), (folder / "out").string(), json}),
                 "r.json");
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

TEST(CliTest, NothingAboveOneRowIsSaid) {
  const TempFolder folder;
  const std::string path = tiny_checkpoint(folder), said = "no batch above 1 row was compared";
  const auto batches = [&](const char* sizes) {
    const CliRun text = verify_cpu({path, "--batches", sizes}), line = verify_cpu({path, "--batches", sizes, "--json"});
    EXPECT_EQ(text.code, 0) << text.err;
    const bool above = json::parse(line.out.substr(0, line.out.find('\n')))["batches_above_1"];
    EXPECT_EQ(text.out.find(said) == std::string::npos, above) << text.out;
    return above;
  };
  EXPECT_FALSE(batches("1"));
  EXPECT_TRUE(batches("1,2"));
}

TEST(CliTest, NamesCannotDriveTheTerminal) {
  const TempFolder folder;
  const std::string name =
      "evil\x1b]0;title\a\xc2\x9b"
      "2J\n0 of 9 outputs differ";
  const CliRun missing = run_cli({"verify", (folder / name).string()});
  const CliRun unknown = run_cli({"verify", "a", "b", name});
  std::vector<NewTensor> tensors = linear(name);
  write_safetensors(folder / "good.safetensors", tensors);
  const CliRun good = verify_cpu({(folder / "good.safetensors").string(), "--batches", "2"});
  const CliRun line = verify_cpu({(folder / "good.safetensors").string(), "--batches", "2", "--json"});
  tensors[1].type = "I32";
  write_safetensors(folder / "bad.safetensors", tensors);
  const CliRun bad = verify_cpu({(folder / "bad.safetensors").string()});
  EXPECT_EQ(good.code, 0) << good.err;
  for (const CliRun* run : {&missing, &unknown, &bad}) EXPECT_EQ(run->code, 2);
  for (const CliRun* run : {&missing, &unknown, &good, &line, &bad})
    for (const std::string& text : {run->out, run->err})
      for (const char* control : {"\x1b", "\a", "\xc2\x9b", "\n0 of 9"})
        EXPECT_EQ(text.find(control), std::string::npos) << text;
}

TEST(CliTest, AnErrorAboutTheInputStandsAlone) {
  const TempFolder folder;
  for (const char* command : {"verify", "quantize"}) {
    const CliRun run = run_cli({command, "--device", "auto", (folder / "none").string(), (folder / "out").string()});
    EXPECT_EQ(run.code, 2);
    EXPECT_EQ(run.err.find("running on the CPU"), std::string::npos) << run.err;
  }
  for (const char* command : {"verify", "audit"}) {
    const CliRun run = run_cli({command, "--threads", "-1", "x"});
    expect_refused(run, "-1 not in range");
    EXPECT_LT(run.err.size(), 200u) << run.err;
  }
}

/// Waits until the process has a handler for SIGINT (bit 1 of SigCgt), then sends it.
void interrupt(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/status", pid);
  for (int i = 0; i < 3000; ++i) {
    const std::string status = read_file(path);
    const size_t caught = status.find("SigCgt:");
    if (caught != std::string::npos && std::stoull(status.substr(caught + 7), nullptr, 16) & 2) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(pid, SIGINT);
}

TEST(CliTest, ControlCEndsWith130AndNoVerdict) {
  const CliRun run =
      run_cli({"verify", "--device", "cpu", "--shapes", "qwen3-1.7b", "--batches", "4096,4095,4094"}, interrupt);
  EXPECT_EQ(run.code, 130) << run.err;
  EXPECT_NE(run.err.find("interrupted"), std::string::npos) << run.err;
  EXPECT_EQ(run.out, "");
}

TEST(CliTest, ControlCStopsQuantizeWhileItCopies) {
  const TempFolder folder;
  // 1 GiB that is copied (a hole in the file, so that it costs nothing here), then one layer.
  std::string header = R"({"a.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]})";
  constexpr int64_t kTensor = int64_t{16} << 20, kTensors = 64;
  for (int64_t i = 0; i < kTensors; ++i)
    header += fmt::format(R"(,"t{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", i, kTensor, 4 + i * kTensor,
                          4 + (i + 1) * kTensor);
  const std::string start = raw_safetensors(header + "}", 4);
  write_file(folder / "in.safetensors", start);
  std::filesystem::resize_file(folder / "in.safetensors", start.size() + kTensors * kTensor);
  const CliRun run = run_cli({"quantize", (folder / "in.safetensors").string(), (folder / "out").string()}, interrupt);
  EXPECT_EQ(run.code, 130) << run.err;
  EXPECT_NE(run.err.find("nothing was written"), std::string::npos) << run.err;
  EXPECT_EQ(folder.list(), std::vector<std::string>{"in.safetensors"});
}

TEST(CliTest, VersionAndHelp) {
  EXPECT_TRUE(std::regex_match(run_cli({"--version"}).out, std::regex("samebits [0-9]+\\.[0-9]+\\.[0-9]+\n")));
  const CliRun help = run_cli({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_NE(help.out.find("Exit codes"), std::string::npos);
  EXPECT_EQ(run_cli({"verify", "--help"}).code, 0);
}

TEST(CliTest, AuditCountsAndExplains) {
  const TempFolder folder;
  const std::string golden = SAMEBITS_GOLDEN_DIR "/h100.safetensors";
  const CliRun same = run_cli({"audit", golden});
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_EQ(same.last_line(), "30 calls, 122880 outputs, 0 differ");
  EXPECT_EQ(run_cli({"audit", golden, golden, "--reference"}).last_line(), "60 calls, 245760 outputs, 0 differ");

  const Recording recording = Recording::open(golden);
  const RecordedCall& call = recording.calls()[2];
  Matrix out(call.out.dtype, call.out.rows, call.out.cols);
  std::memcpy(out.bytes.data(), call.out.data, out.bytes.size());
  out.as<uint32_t>()[call.out.cols + 3] ^= 1;
  RecordedCall wrong = call;
  wrong.out = out.view();
  const std::vector<RecordedCall> calls = {call, wrong};
  write_recording(folder / "wrong.safetensors", calls, {{"device", "a test"}});
  const CliRun different = run_cli({"audit", (folder / "wrong.safetensors").string()});
  EXPECT_EQ(different.code, 1);
  EXPECT_EQ(different.last_line(), fmt::format("2 calls, {} outputs, 1 differ", 2 * call.out.rows * call.out.cols));
  EXPECT_NE(different.out.find("call 1: row 1, column 3"), std::string::npos) << different.out;
  EXPECT_NE(different.out.find("1 ulps"), std::string::npos) << different.out;
  expect_refused(run_cli({"audit", tiny_checkpoint(folder)}), "tiny.safetensors");
  expect_refused(run_cli({"audit", (folder / "none").string()}), "none");
}

TEST(CliTest, InfoNamesDevicesOrdersAndChoices) {
  const CliRun all = run_cli({"info", "--json"});
  EXPECT_EQ(all.code, 0) << all.err;
  const json info = json::parse(all.out);
  EXPECT_EQ(info["devices"].size(), cuda_devices().size() + 1);
  EXPECT_EQ(info["orders"].size(), kOrders.size());
  EXPECT_EQ(info["orders"][0]["name"], "hopper-fast");
  const json choices =
      json::parse(run_cli({"info", "--json", "--shape", "64,4096,2048", "--order", "ada-fast"}).out)["choices"];
  EXPECT_EQ(choices.back()["kernel"], "cpu");
  EXPECT_EQ(choices.back()["order"], "ada-fast");
  const CliRun described = run_cli({"info", "--shape", "64,4096,2047", "--arch", "90"});
  EXPECT_EQ(described.code, 0);
  EXPECT_NE(described.out.find("none"), std::string::npos) << described.out;
  for (const char* shape :
       {"64,4096", "1,17,99999999999999999999", "1,17,2147483648", "0,16,16", "1,,16", "1,2,3,", ","})
    expect_refused(run_cli({"info", "--shape", shape}),
                   fmt::format("--shape {}: it takes m,n,k, three numbers of 1 to 2147483647", shape));
  expect_refused(run_cli({"info", "--shape", "64,4096,2048", "--out", "e4m3"}), "bf16, fp16, fp32");
  expect_refused(run_cli({"info", "--sms", "3"}), "--arch");
}

TEST(CliTest, TuneSaysWhyItCannot) {
  const TempFolder folder;
  const std::string checkpoint = tiny_checkpoint(folder);
  expect_refused(run_cli({"tune"}), "a checkpoint, --shape or --shapes");
  expect_refused(run_cli({"tune", checkpoint, "--device", "cpu"}), "there is nothing to tune");
  expect_refused(run_cli({"tune", "--shape", "64"}), "--shape 64: it takes n,k, two numbers of 1 to 2147483647");
  expect_refused(run_cli({"tune", "--shape", "16,16,16"}), "--shape 16,16,16");
  expect_refused(run_cli({"tune", "--shapes", "llama9"}), "llama9");
  expect_refused(run_cli({"tune", (folder / "none").string()}), "none");
  expect_refused(run_cli({"tune", checkpoint, "--order", "hopper-quick"}), "hopper-quick");
  if (cuda_devices().empty()) expect_refused(run_cli({"tune", checkpoint}), "no CUDA device");
}

TEST(CliTest, RulesThatDoNotHoldAreRefusedByEveryCommand) {
  const TempFolder folder;
  RuleSet rules;
  rules.device = "NVIDIA H20", rules.arch = 90, rules.sms = 78, rules.version = version(), rules.date = "2026-11-24";
  const std::string path = (folder / "rules.json").string(), checkpoint = tiny_checkpoint(folder);
  save_rules(rules, path);
  const std::string why = path + ": measured on NVIDIA H20 (sm_90, 78 SMs), this is the CPU";
  expect_refused(run_cli({"verify", checkpoint, "--device", "cpu", "--rules", path}), why);
  expect_refused(run_cli({"bench", "--shape", "1,16,16", "--device", "cpu", "--rules", path}), why);
  if (cuda_devices().empty()) expect_refused(run_cli({"info", "--rules", path}), why);
  write_file(path, read_file(path).replace(0, 1, "["));
  expect_refused(run_cli({"info", "--rules", path}), "not JSON");
}

}  // namespace
}  // namespace samebits
