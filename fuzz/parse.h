// What a fuzzer does with one input. Shared by the fuzzers and by tests/corpus_test.cpp, which replays the corpus.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

#include "cuda/tile.h"
#include "io/document.h"
#include "io/recording.h"
#include "io/safetensors.h"
#include "numerics/reference.h"
#include "samebits/prove.h"
#include "samebits/rules.h"

namespace samebits::fuzz {

/// What became of one input.
enum class Outcome { kAccepted, kRefused };

/// A broken promise of the parser: stops the fuzzer and fails the test with a stack.
inline void require(bool condition) {
  if (!condition) std::abort();
}

/// Reads every byte that the parser hands out, so that a view outside of the file meets AddressSanitizer.
inline Outcome parse_safetensors(std::vector<std::byte> bytes) {
  try {
    const SafetensorsFile file = SafetensorsFile::from_bytes(std::move(bytes), "fuzz");
    volatile unsigned sink = 0;
    for (const Tensor& tensor : file.tensors()) {
      for (std::byte b : tensor.bytes) sink = sink + static_cast<unsigned>(b);
      require(file.find(tensor.name) == &tensor);
      require(static_cast<uint64_t>(tensor.elements()) * static_cast<uint64_t>(tensor.type->bits) ==
              8 * tensor.bytes.size());
      if (tensor.type->dtype)
        require(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % size_of(*tensor.type->dtype) == 0);
    }
    return Outcome::kAccepted;
  } catch (const Error&) {
    return Outcome::kRefused;
  }
}

/// Reads a recording and, where that is quick, computes its calls.
inline Outcome parse_recording(std::vector<std::byte> bytes) {
  try {
    const Recording recording = Recording::from(SafetensorsFile::from_bytes(std::move(bytes), "fuzz"));
    for (const RecordedCall& call : recording.calls()) {
      const int64_t m = call.out.rows, n = call.out.cols, k = call.a.cols;
      if (m > 64 || n > 64 || k > 64) continue;
      std::vector<float> out(static_cast<size_t>(m * n) + 1);
      reference_gemm(call.problem(View(out.data(), Dtype::kF32, m, n)));
    }
    return Outcome::kAccepted;
  } catch (const Error&) {
    return Outcome::kRefused;
  }
}

/// Reads a certificate and asks it about the device that it names.
inline Outcome parse_certificate(std::string_view text) {
  try {
    const Certificate c = samebits::parse_certificate(text, "fuzz");
    DeviceInfo device;
    device.arch = c.arch, device.sms = c.sms, device.name = c.device, device.driver = c.driver;
    require(c.holds_for(device) && c.version == version() && c.contract == kContractVersion);
    for (const ProvedOrder& order : c.orders)
      for (const ProvedRow& row : order.rows) require(row.outputs > 0);
    return Outcome::kAccepted;
  } catch (const Error&) {
    return Outcome::kRefused;
  }
}

/// What choose() makes of a rule on the device that it was measured on: no rule leads to a row of another Order.
inline void follow(const RuleSet& rules, const ShapeRule& rule, const DeviceInfo& device) {
  for (int64_t m : {rule.min_m, rule.picks[0].max_m}) {
    try {
      const Plan plan = choose(device, rule.order, m, rule.n, rule.k, Dtype::kBf16, &rules);
      require(plan.tile && plan.tile->order == rule.order);
    } catch (const Error&) {  // a shape that no row takes
    }
  }
}

/// Reads rules and follows them.
inline Outcome parse_rules(std::string_view text) {
  try {
    const RuleSet rules = samebits::parse_rules(text, "fuzz");
    DeviceInfo device;
    device.arch = rules.arch, device.sms = rules.sms, device.name = rules.device, device.shared_memory = 227 << 10;
    require(rules.holds_for(device));
    for (const ShapeRule& rule : rules.shapes) follow(rules, rule, device);
    return Outcome::kAccepted;
  } catch (const Error&) {
    return Outcome::kRefused;
  }
}

/// Calls `parse` with the input as it is and, where it is an object of JSON, with the digest and the version that a
/// file of its content has: a mutation would else fail there, before anything interesting.
template <class Parse>
void with_repaired_digest(std::span<const uint8_t> input, Parse&& parse) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  parse(text);
  try {
    Json file = parse_json(text, "fuzz", 8);
    if (!file.is_object()) return;
    file["library"] = version();
    file["digest"] = digest_of(file);
    parse(file.dump());
  } catch (const Error&) {  // no JSON
  }
}

/// Calls `parse` with the input as it is, and with the header length that its last brace implies: a mutation that adds
/// or removes a character would else fail at the length, before anything interesting.
template <class Parse>
void with_repaired_length(std::span<const uint8_t> input, Parse&& parse) {
  const auto* data = reinterpret_cast<const std::byte*>(input.data());
  std::vector<std::byte> bytes(data, data + input.size());
  parse(bytes);
  const auto brace = std::find(bytes.rbegin(), bytes.rend(), std::byte{'}'});
  const size_t end = static_cast<size_t>(bytes.rend() - brace);  // one past the last brace; 0: there is none
  if (end <= 8) return;
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>((end - 8) >> (8 * i));
  parse(std::move(bytes));
}

}  // namespace samebits::fuzz
