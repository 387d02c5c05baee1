// All kernels over bfloat16 of one target. CMake compiles this file once per bf16 target of targets.def, as
// kernels.cpp.
#include "../kernels.hpp"

#include "../labels.hpp"
#include "depthwise.hpp"
#include "tile.hpp"
// Behind the tile, which it runs.
#include "../matmul.hpp"

#define MNV2_TEXT_OF(name) #name
#define MNV2_TEXT(name) MNV2_TEXT_OF(name)

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

void matmul(const Matmul<bfloat16>& job) { run_panels(job); }

void sum(const bfloat16* in, int pixels, std::ptrdiff_t stride, int channels, float* out) {
  for (int channel = 0; channel < channels; channel += LANES) {
    const int count = channels - channel < LANES ? channels - channel : LANES;
    Vec sum = zero();
    for (int p = 0; p < pixels; p++) sum = add(sum, load_some(in + p * stride + channel, count));
    store_some(out + channel, sum, count);
  }
}

float dot_chains(int rounds, float factor) {
  const bfloat16 numbers[2] = {from_float<bfloat16>(factor), from_float<bfloat16>(factor)};
  const Pairs by = splat_pair(numbers);
  Vec sum[FMA_CHAINS];
  MNV2_UNROLL for (int i = 0; i < FMA_CHAINS; i++) sum[i] = splat(factor + static_cast<float>(i));
  for (int round = 0; round < rounds; round++) {
    MNV2_UNROLL for (int i = 0; i < FMA_CHAINS; i++) sum[i] = dot(in_register(sum[i]), by, by);
  }
  MNV2_UNROLL for (int i = 1; i < FMA_CHAINS; i++) sum[0] = add(sum[0], sum[i]);
  float lanes[LANES];
  store(lanes, sum[0]);
  return lanes[0];
}

}  // namespace
}  // namespace MNV2_NAMESPACE

namespace MNV2_NAMESPACE {

extern const Kernels<bfloat16> bfloat16_kernels;
const Kernels<bfloat16> bfloat16_kernels = {MNV2_TEXT(MNV2_NAMESPACE),
                                            LANES,
                                            PANEL_VECTORS,
                                            tile_rows(PANEL_VECTORS),
                                            false,
                                            0,
                                            0,
                                            0,
                                            Types<bfloat16>::TOGETHER,
                                            0,
                                            matmul,
                                            depthwise,
                                            sum,
                                            labels,
                                            dot_chains};

}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
