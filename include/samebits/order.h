// An Order is a named way to compute one output element: it chooses the bits, and nothing else does.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace samebits {

enum class Order : uint8_t {
  kHopperFast,
  kHopperPromoted,
  kAdaFast,
  kAdaPromoted,
  kHopperBf16,
  kHopperBlock128,
  kBlackwellFast,
  kSm120Fast,
  kAmpereBf16
};

/// Which operands an Order takes.
enum class Operands : uint8_t {
  kFp8,   ///< e4m3 and e5m2, in any mix
  kHalf,  ///< `a` bf16 or fp16; `b` of the same dtype, or e4m3, which is widened to it exactly
};

/// The constants of an Order. docs/contract.md states how a step uses them.
struct OrderSpec {
  Order order;
  std::string_view name;
  int chunk;          ///< elements of K that one step of the matrix unit adds
  int align_bits;     ///< terms are truncated to multiples of 2^(E - align_bits), E the largest exponent of the step
  int result_bits;    ///< fraction bits kept below the leading bit of the step's sum
  int promote_every;  ///< elements of K in one chain before it is added to the FP32 total; 0: one chain over all of K
  std::string_view origin;  ///< who measured the constants
  Operands operands = Operands::kFp8;
  /// Elements of K that share a scale, and output channels that share one of the weight: each chain of promote_every
  /// (the same number) is multiplied by its scales as it is added. 0: scales belong to the epilogue.
  int scale_block = 0;
  int least_exponent = -133;  ///< E is at least this; no sum of FP8 products gets there
};

/// Source of the Hopper constants: recordings in tests/golden. Source of the others: arXiv 2512.07004 and the models
/// published with it (A100TC, AdaTC, B200TC, RTXPRO6000TC), which drive mma.sync; nobody has published tcgen05's.
inline constexpr std::array<OrderSpec, 9> kOrders = {{
    {Order::kHopperFast, "hopper-fast", 32, 13, 13, 0, "measured on H100 and H200"},
    {Order::kHopperPromoted, "hopper-promoted", 32, 13, 13, 128, "measured on H100 and H200"},
    {Order::kAdaFast, "ada-fast", 16, 13, 13, 0, "published, not measured by this project"},
    {Order::kAdaPromoted, "ada-promoted", 16, 13, 13, 128, "published, not measured by this project"},
    {Order::kHopperBf16, "hopper-bf16", 16, 25, 23, 0, "measured on H100 and H200", Operands::kHalf},
    {Order::kHopperBlock128, "hopper-block128", 32, 13, 13, 128, "measured on H100 and H200", Operands::kFp8, 128},
    {Order::kBlackwellFast, "blackwell-fast", 32, 25, 23, 0, "published for mma.sync, not measured by this project"},
    {Order::kSm120Fast, "sm120-fast", 32, 25, 23, 0, "published, not measured by this project"},
    {Order::kAmpereBf16, "ampere-bf16", 8, 24, 23, 0, "published, not measured by this project", Operands::kHalf, 0,
     -132},
}};

constexpr const OrderSpec& spec(Order order) { return kOrders[static_cast<size_t>(order)]; }
constexpr std::string_view name(Order order) { return spec(order).name; }

/// The Order called `text`. Throws Error(kBadInput) that lists the names there are.
Order parse_order(std::string_view text);

}  // namespace samebits
