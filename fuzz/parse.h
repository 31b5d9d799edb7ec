// What a fuzzer does with one input. Shared by the two fuzzers and by tests/corpus_test.cpp, which replays the corpus.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

#include "io/recording.h"
#include "io/safetensors.h"
#include "numerics/reference.h"

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
