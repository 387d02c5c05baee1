// The tables of passes.hpp for one target. CMake compiles this file once per training target of
// runtime/native/targets.def, as kernels.cpp.
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

namespace MNV2_NAMESPACE {

#if defined(MNV2_HAS_FLOATS)
extern const Passes<float> float_passes;
const Passes<float> float_passes = all_passes<float>();
#endif
extern const Passes<bfloat16> bfloat16_passes;
const Passes<bfloat16> bfloat16_passes = all_passes<bfloat16>();

}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
