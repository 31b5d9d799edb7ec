// The matrix instruction of a Ring kernel: wgmma on 64 weight rows x kCols tokens x 32 bytes of K, both K-major in
// shared memory, FP32 accumulators (PTX ISA, "wgmma.mma_async"). Used by ring.cuh.
#pragma once
#include <cutlass/float8.h>
#include <cutlass/numeric_types.h>
#include <cute/arch/mma_sm90.hpp>

#include <cstdint>
#include <utility>

namespace samebits::cuda {

/// d = x * y, plus d if `accumulate`. `x`, `y`: descriptors of weight and tokens.
template <class A, int kCols>
struct RingMma {
  static constexpr auto kMajor = cute::GMMA::Major::K;
  using Shape = cute::Shape<cute::_64, cute::Int<kCols>, cute::Int<32 / sizeof(A)>>;
  using Atom = decltype(cute::SM90::GMMA::ss_op_selector<A, A, float, Shape, kMajor, kMajor>());

  static __device__ void fma(float (&d)[kCols / 2], uint64_t x, uint64_t y, bool accumulate) {
    fma(d, x, y, accumulate, std::make_index_sequence<kCols / 2>{});
  }
  template <size_t... kI>
  static __device__ void fma(float (&d)[kCols / 2], uint64_t x, uint64_t y, bool accumulate,
                             std::index_sequence<kI...>) {
    Atom::fma(x, y, d[kI]..., accumulate ? cute::GMMA::ScaleOut::One : cute::GMMA::ScaleOut::Zero);
  }
};

// The widths that CUTE keeps in a header of its own, which every unit that asks for one would parse for 30 s.
// clang-format off
#define SAMEBITS_REGISTERS_20 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11" \
  ", %12, %13, %14, %15, %16, %17, %18, %19"
#define SAMEBITS_REGISTERS_36 SAMEBITS_REGISTERS_20 \
  ", %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
  ", %32, %33, %34, %35"
#define SAMEBITS_REGISTERS_44 SAMEBITS_REGISTERS_36 \
  ", %36, %37, %38, %39, %40, %41, %42, %43"
#define SAMEBITS_REGISTERS_72 SAMEBITS_REGISTERS_44 \
  ", %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55" \
  ", %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67" \
  ", %68, %69, %70, %71"
#define SAMEBITS_REGISTERS_80 SAMEBITS_REGISTERS_72 \
  ", %72, %73, %74, %75, %76, %77, %78, %79"
#define SAMEBITS_OPERANDS_20 \
  SAMEBITS_FOUR(0), SAMEBITS_FOUR(4), SAMEBITS_FOUR(8), SAMEBITS_FOUR(12), SAMEBITS_FOUR(16)
#define SAMEBITS_OPERANDS_36 SAMEBITS_OPERANDS_20, \
  SAMEBITS_FOUR(20), SAMEBITS_FOUR(24), SAMEBITS_FOUR(28), SAMEBITS_FOUR(32)
#define SAMEBITS_OPERANDS_44 SAMEBITS_OPERANDS_36, \
  SAMEBITS_FOUR(36), SAMEBITS_FOUR(40)
#define SAMEBITS_OPERANDS_72 SAMEBITS_OPERANDS_44, \
  SAMEBITS_FOUR(44), SAMEBITS_FOUR(48), SAMEBITS_FOUR(52), SAMEBITS_FOUR(56), SAMEBITS_FOUR(60), SAMEBITS_FOUR(64), \
  SAMEBITS_FOUR(68)
#define SAMEBITS_OPERANDS_80 SAMEBITS_OPERANDS_72, \
  SAMEBITS_FOUR(72), SAMEBITS_FOUR(76)
#define SAMEBITS_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SAMEBITS_MMA(A, instruction, majors, registers, x_register, y_register, flag) \
  template <> \
  struct RingMma<A, 2 * registers> { \
    static __device__ void fma(float (&d)[registers], uint64_t x, uint64_t y, bool accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " flag ", 0;\n" \
                   "wgmma.mma_async.sync.aligned." instruction \
                   " {" SAMEBITS_REGISTERS_##registers "}, " x_register ", " y_register ", p, 1, 1" majors \
                   ";\n}\n" \
                   : SAMEBITS_OPERANDS_##registers \
                   : "l"(x), "l"(y), "r"(static_cast<int>(accumulate))); \
    } \
  };
#define SAMEBITS_WIDTH(columns, registers, ...) \
  SAMEBITS_MMA(cutlass::float_e4m3_t, "m64n" columns "k32.f32.e4m3.e4m3", "", registers, __VA_ARGS__) \
  SAMEBITS_MMA(cutlass::bfloat16_t, "m64n" columns "k16.f32.bf16.bf16", ", 0, 0", registers, __VA_ARGS__) \
  SAMEBITS_MMA(cutlass::half_t, "m64n" columns "k16.f32.f16.f16", ", 0, 0", registers, __VA_ARGS__)
SAMEBITS_WIDTH("40", 20, "%20", "%21", "%22")
SAMEBITS_WIDTH("72", 36, "%36", "%37", "%38")
SAMEBITS_WIDTH("88", 44, "%44", "%45", "%46")
SAMEBITS_WIDTH("144", 72, "%72", "%73", "%74")
SAMEBITS_WIDTH("160", 80, "%80", "%81", "%82")
#undef SAMEBITS_WIDTH
#undef SAMEBITS_MMA
#undef SAMEBITS_FOUR
// clang-format on

}  // namespace samebits::cuda
