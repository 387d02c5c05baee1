// All kernels of one target. A target's file defines MNV2_NAME, MNV2_NAMESPACE and MNV2_TABLE, and MNV2_TARGET_* unless
// scalar, and includes this. Nothing of the standard library is used in kernels: targets would share its templates.
#pragma once

#include "depthwise.hpp"
#include "kernels.hpp"
#include "matmul.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

void add_arrays(const float* a, const float* b, float* out, std::ptrdiff_t count) {
  std::ptrdiff_t i = 0;
  for (; i + LANES <= count; i += LANES) store(out + i, add(load(a + i), load(b + i)));
  for (; i < count; i++) out[i] = a[i] + b[i];
}

void mean(const float* in, int pixels, std::ptrdiff_t stride, int channels, float* out) {
  const Vec share = splat(1.0f / static_cast<float>(pixels));
  for (int channel = 0; channel < channels; channel += LANES) {
    const int count = channels - channel < LANES ? channels - channel : LANES;
    Vec sum = zero();
    for (int p = 0; p < pixels; p++) sum = add(sum, load_some(in + p * stride + channel, count));
    store_some(out + channel, mul(sum, share), count);
  }
}

float fma_chains(int rounds, float factor) {
  const Vec by = splat(factor), more = splat(1.0f);
  Vec sum[FMA_CHAINS];
  MNV2_UNROLL for (int i = 0; i < FMA_CHAINS; i++) sum[i] = splat(factor + static_cast<float>(i));
  for (int round = 0; round < rounds; round++) {
    MNV2_UNROLL for (int i = 0; i < FMA_CHAINS; i++) sum[i] = fma(sum[i], by, more);
  }
  MNV2_UNROLL for (int i = 1; i < FMA_CHAINS; i++) sum[0] = add(sum[0], sum[i]);
  float lanes[LANES];
  store(lanes, sum[0]);
  return lanes[0];
}

const Kernels table = {MNV2_NAME,  LANES, PANEL_VECTORS, tile_rows(PANEL_VECTORS), matmul, depthwise,
                       add_arrays, mean,  fma_chains};

}  // namespace
}  // namespace MNV2_NAMESPACE

const Kernels* const MNV2_TABLE = &MNV2_NAMESPACE::table;

}  // namespace mobilenetv2
