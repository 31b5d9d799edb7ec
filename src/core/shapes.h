// Weight shapes of known models, [N,K] of each fused linear of one transformer block. Called by `samebits verify
// --shapes` and `samebits bench`.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace samebits {

struct Shape {
  int64_t n, k;
};

struct ModelShapes {
  std::string_view name;
  std::span<const Shape> shapes;
};

namespace shapes {
inline constexpr Shape kSeed[] = {{1024, 2048}, {4608, 4096}};
inline constexpr Shape kQwen3_1_7b[] = {{4096, 2048}, {2048, 2048}, {12288, 2048}, {2048, 6144}};
inline constexpr Shape kLlama3_8b[] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
inline constexpr Shape kLlama3_70b[] = {{10240, 8192}, {8192, 8192}, {57344, 8192}, {8192, 28672}};
// Over 8 GPUs: columns of qkv and gate_up, rows of o and down are divided by 8.
inline constexpr Shape kLlama3_70bTp8[] = {{1280, 8192}, {8192, 1024}, {7168, 8192}, {8192, 3584}};
inline constexpr Shape kDeepseekV3[] = {{2112, 7168}, {24576, 1536}, {7168, 16384}, {36864, 7168}, {7168, 18432}};
}  // namespace shapes

inline constexpr std::array<ModelShapes, 6> kModelShapes = {{
    {"seed", shapes::kSeed},
    {"qwen3-1.7b", shapes::kQwen3_1_7b},
    {"llama3-8b", shapes::kLlama3_8b},
    {"llama3-70b", shapes::kLlama3_70b},
    {"llama3-70b-tp8", shapes::kLlama3_70bTp8},
    {"deepseek-v3", shapes::kDeepseekV3},
}};

/// "seed, qwen3-1.7b, ...", for messages and help.
std::string model_names();
/// The model called `name`. Throws Error(kBadInput) that lists the names there are.
const ModelShapes& model_shapes(std::string_view name);

}  // namespace samebits
