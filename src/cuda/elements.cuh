// CUTLASS's types of the elements that a row multiplies.
#pragma once
#include <cutlass/float8.h>
#include <cutlass/numeric_types.h>

#include "samebits/types.h"

namespace samebits::cuda {

namespace detail {
template <Dtype kDtype>
struct ElementOf;
template <>
struct ElementOf<Dtype::kE4m3> {
  using Type = cutlass::float_e4m3_t;
};
template <>
struct ElementOf<Dtype::kBf16> {
  using Type = cutlass::bfloat16_t;
};
template <>
struct ElementOf<Dtype::kF16> {
  using Type = cutlass::half_t;
};
}  // namespace detail

template <Dtype kDtype>
using Element = typename detail::ElementOf<kDtype>::Type;

}  // namespace samebits::cuda
