// The table of passes.hpp for one target. Each passes_*.cpp includes it once; see simd.hpp.
#pragma once

#include "depthwise_passes.hpp"
#include "lanes.hpp"
#include "norm_passes.hpp"
#include "product_passes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

template <class T>
constexpr Passes<T> all_passes() {
  return {sums<T>,
          normalise<T>,
          gradient_sums<T, T>,
          gradient<T, T>,
          depthwise<T>,
          depthwise_gradient<T>,
          LANES,
          GROUP,
          product<T>,
          pair_rows<T>,
          subtract<T>,
          convert<T>,
          gradient_sums<float, T>,
          gradient<float, T>,
          clip_gradient<T>};
}

}  // namespace
}  // namespace MNV2_NAMESPACE

#if defined(MNV2_TABLE)
const Passes<float> MNV2_TABLE = MNV2_NAMESPACE::all_passes<float>();
#endif
const Passes<bfloat16> MNV2_BFLOAT16_TABLE = MNV2_NAMESPACE::all_passes<bfloat16>();

}  // namespace mobilenetv2
