// Rows of bf16, fp16 and fp32 in SIMD lanes, for quantize-inl.h and fused-inl.h; once per Highway target.
#if defined(SAMEBITS_CPU_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SAMEBITS_CPU_ROW_INL_H_
#undef SAMEBITS_CPU_ROW_INL_H_
#else
#define SAMEBITS_CPU_ROW_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "cpu/convert-inl.h"
#include "samebits/types.h"

HWY_BEFORE_NAMESPACE();
namespace samebits::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements [col, col + lanes) of a row of bf16, fp16 or fp32; zeros past `count`.
HWY_INLINE VFloat LoadElements(const ConstView& x, int64_t row, int64_t col, size_t count) {
  const DFloat d;
  const hn::Rebind<uint16_t, DFloat> d16;
  if (count < FloatLanes() || x.col_stride != 1) {
    HWY_ALIGN float buffer[HWY_MAX_BYTES / 4] = {};
    for (size_t i = 0; i < count; ++i) buffer[i] = load(x.dtype, x.at(row, col + static_cast<int64_t>(i)));
    return hn::Load(d, buffer);
  }
  const void* p = x.at(row, col);
  if (x.dtype == Dtype::kF32) return hn::LoadU(d, static_cast<const float*>(p));
  const auto codes = hn::PromoteTo(DBits(), hn::LoadU(d16, static_cast<const uint16_t*>(p)));
  return x.dtype == Dtype::kBf16 ? DecodeBf16(codes) : DecodeF16(codes);
}

// Calls body(col, count) for each vector of a row.
template <class Body>
HWY_INLINE void ForEachVector(int64_t cols, const Body& body) {
  const int64_t lanes = static_cast<int64_t>(FloatLanes());
  for (int64_t col = 0; col < cols; col += lanes) body(col, static_cast<size_t>(std::min(lanes, cols - col)));
}

}  // namespace HWY_NAMESPACE
}  // namespace samebits::cpu
HWY_AFTER_NAMESPACE();

#endif  // include guard
