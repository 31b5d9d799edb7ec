// The contract's epilogue as one CUTLASS 3.x visitor tree, the same for every row of every SM90+ table:
//   t = scale_a * acc;  out = cast(scale_b * t)  or  cast(fma(scale_b, t, bias)).
// Bias, scale shapes and bf16 / fp16 are run-time arguments, so that a row is one kernel and not eight.
#pragma once
#include <cutlass/cutlass.h>
#include <cutlass/numeric_conversion.h>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>

#include "cuda/tile.h"

namespace samebits::cuda {

namespace fusion = cutlass::epilogue::fusion;

/// A 16-bit output is carried through CUTLASS as bfloat16_t whatever its format: TMA moves bits, not numbers.
template <OutKind kOut>
using Carrier = cute::conditional_t<kOut == OutKind::kHalf, cutlass::bfloat16_t, float>;

/// The last node of the tree: scale_b, bias and the one cast.
template <OutKind kOut>
struct Finish : fusion::Sm90VisitorImpl<> {
  using Element = Carrier<kOut>;
  struct SharedStorage {};
  struct Arguments {
    bool has_bias;  // no bias is not a zero bias: fma(x, y, +0) loses -0
    bool fp16;
  };
  using Params = Arguments;

  template <class ProblemShape>
  static constexpr Params to_underlying_arguments(ProblemShape const&, Arguments const& args, void*) {
    return args;
  }
  template <class ProblemShape>
  static bool can_implement(ProblemShape const&, Arguments const&) {
    return true;
  }
  template <class ProblemShape>
  static size_t get_workspace_size(ProblemShape const&, Arguments const&) {
    return 0;
  }
  template <class ProblemShape>
  static cutlass::Status initialize_workspace(ProblemShape const&, Arguments const&, void*, cudaStream_t,
                                              cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }

  Finish() = default;
  CUTLASS_HOST_DEVICE Finish(Params const& params, SharedStorage const&) : params(params) {}
  Params params;

  struct Callbacks : fusion::detail::EmptyConsumerStoreCallbacks {
    CUTLASS_DEVICE explicit Callbacks(Params const& params) : params(params) {}
    Params const& params;

    template <class Acc, int kSize>
    CUTLASS_DEVICE cutlass::Array<Element, kSize> visit(cutlass::Array<Acc, kSize> const&, int, int, int,
                                                        cutlass::Array<float, kSize> const& scale_b,
                                                        cutlass::Array<Element, kSize> const& bias,
                                                        cutlass::Array<float, kSize> const& t) {
      cutlass::Array<float, kSize> y;
      if (params.has_bias) {
        cutlass::Array<float, kSize> const wide = widen(bias);
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < kSize; ++i) y[i] = __fmaf_rn(scale_b[i], t[i], wide[i]);
      } else {
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < kSize; ++i) y[i] = __fmul_rn(scale_b[i], t[i]);
      }
      if constexpr (kOut == OutKind::kFloat) {
        return y;
      } else if (params.fp16) {
        auto const half = cutlass::NumericArrayConverter<cutlass::half_t, float, kSize>{}(y);
        return reinterpret_cast<cutlass::Array<Element, kSize> const&>(half);
      } else {
        return cutlass::NumericArrayConverter<Element, float, kSize>{}(y);
      }
    }

   private:
    template <int kSize>
    CUTLASS_DEVICE cutlass::Array<float, kSize> widen(cutlass::Array<Element, kSize> const& bias) const {
      if constexpr (kOut == OutKind::kFloat) {
        return bias;
      } else if (params.fp16) {
        return cutlass::NumericArrayConverter<float, cutlass::half_t, kSize>{}(
            reinterpret_cast<cutlass::Array<cutlass::half_t, kSize> const&>(bias));
      } else {
        return cutlass::NumericArrayConverter<float, Element, kSize>{}(bias);
      }
    }
  };

  template <bool kReferenceSrc, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(fusion::detail::ConsumerStoreArgs<Args...> const&) {
    return Callbacks(params);
  }
};

/// The tree for one block tile. Swap-aware: with swapped operands the tokens are the columns of the MMA, so the token
/// scale is broadcast along the other mode, and the order of the two multiplications stays.
template <class BlockTile, bool kSwapped, OutKind kOut>
struct Epilogue {
  // A bool stride is CUTLASS's run-time choice between a vector and one value for all.
  using ColStride = cute::Stride<bool, cute::_0, int64_t>;
  using RowStride = cute::Stride<cute::_0, bool, int64_t>;
  template <class T>
  using Col = fusion::Sm90ColBroadcast<0, BlockTile, T, T, ColStride>;
  template <class T>
  using Row = fusion::Sm90RowBroadcast<0, BlockTile, T, T, RowStride>;
  template <class T>
  using PerToken = cute::conditional_t<kSwapped, Row<T>, Col<T>>;
  template <class T>
  using PerChannel = cute::conditional_t<kSwapped, Col<T>, Row<T>>;
  using Multiply = fusion::Sm90Compute<cutlass::multiplies, float, float, cutlass::FloatRoundStyle::round_to_nearest>;
  using Scaled = fusion::Sm90EVT<Multiply, PerToken<float>, fusion::Sm90AccFetch>;
  using Tree = fusion::Sm90EVT<Finish<kOut>, PerChannel<float>, PerChannel<Carrier<kOut>>, Scaled>;

  static typename Tree::Arguments arguments(const GemmProblem& p) {
    using T = Carrier<kOut>;
    const auto vector = [](auto broadcast, auto* data, bool is_vector, auto absent) {
      using Broadcast = decltype(broadcast);
      typename Broadcast::Arguments args{};
      args.null_default = absent;
      if constexpr (cute::is_same_v<typename Broadcast::StrideMNL, ColStride>) {
        args.ptr_col = data;
        cute::get<0>(args.dCol) = is_vector;
      } else {
        args.ptr_row = data;
        cute::get<1>(args.dRow) = is_vector;
      }
      return args;
    };
    return {vector(PerChannel<float>{}, p.scale_b.data, !p.scale_b.is_per_tensor(), 1.0f),
            vector(PerChannel<T>{}, static_cast<const T*>(p.bias.data), true, T(0)),
            {vector(PerToken<float>{}, p.scale_a.data, !p.scale_a.is_per_tensor(), 1.0f), {}, {}},
            {static_cast<bool>(p.bias), p.out.dtype == Dtype::kF16}};
  }
};

}  // namespace samebits::cuda
