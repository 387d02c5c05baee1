// All kernels of one target. CMake compiles this file once per line of targets.def, with that line's flags and these
// definitions: MNV2_NAMESPACE, the target's name; MNV2_VOCABULARY, its file of simd/; MNV2_HAS_FLOATS where it has
// float kernels of its own. Nothing of the standard library is used in kernels: targets would share its templates.
#include "kernels.hpp"

#include "int8_depthwise.hpp"
#include "labels.hpp"
#include "matmul.hpp"
#include "simd.hpp"
#if defined(MNV2_HAS_FLOATS)
#include "depthwise.hpp"
#endif
#if defined(MNV2_PAIRS)
#include "int8_depthwise_pairs.hpp"
#endif

#define MNV2_TEXT_OF(name) #name
#define MNV2_TEXT(name) MNV2_TEXT_OF(name)

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

void matmul_bytes(const Matmul<std::uint8_t>& job) { run_panels(job); }

void depthwise_bytes(const Depthwise<std::uint8_t>& job) {
#if defined(MNV2_PAIRS)
  depthwise_of_pairs(job);
#else
  depthwise(job);
#endif
}

void sum_bytes(const std::uint8_t* in, int pixels, std::ptrdiff_t stride, int channels, std::int32_t* out) {
  for (int channel = 0; channel < channels; channel += LANES) {
    const int count = channels - channel < LANES ? channels - channel : LANES;
    Ints sum = splat_ints(0);
    for (int p = 0; p < pixels; p++) sum = add_ints(sum, load_byte_ints(in + p * stride + channel, count));
    store_some_ints(out + channel, sum, count);
  }
}

float dot_chains(int rounds, float factor) {
  Sums sum[FMA_CHAINS];
  Ints weights[FMA_CHAINS];
  Ints bytes = splat_ints(static_cast<int>(factor * 4) * 0x01010101);
  MNV2_UNROLL for (int i = 0; i < FMA_CHAINS; i++) {
    sum[i] = to_sums(splat_ints(i));
    weights[i] = in_register(splat_ints(i * 0x01010101));
  }
  for (int round = 0; round < rounds; round++) {
    bytes = in_register(bytes);  // else the compiler knows what all rounds come to
    MNV2_UNROLL for (int i = 0; i < FMA_CHAINS; i++) sum[i] = dot(sum[i], bytes, weights[i]);
  }
  Ints all = splat_ints(0);
  MNV2_UNROLL for (int i = 0; i < FMA_CHAINS; i++) all = add_ints(all, from_sums(sum[i]));
  float lanes[LANES];
  store(lanes, to_floats(all));
  return lanes[0];
}

#if defined(MNV2_HAS_FLOATS)

void matmul(const Matmul<float>& job) { run_panels(job); }

void sum(const float* in, int pixels, std::ptrdiff_t stride, int channels, float* out) {
  for (int channel = 0; channel < channels; channel += LANES) {
    const int count = channels - channel < LANES ? channels - channel : LANES;
    Vec sum = zero();
    for (int p = 0; p < pixels; p++) sum = add(sum, load_some(in + p * stride + channel, count));
    store_some(out + channel, sum, count);
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

#endif

}  // namespace
}  // namespace MNV2_NAMESPACE

namespace MNV2_NAMESPACE {

#if defined(MNV2_HAS_FLOATS)
extern const Kernels<float> float_kernels;
const Kernels<float> float_kernels = {MNV2_TEXT(MNV2_NAMESPACE),
                                      LANES,
                                      PANEL_VECTORS,
                                      tile_rows(PANEL_VECTORS),
                                      false,
                                      FLOAT_HALVES ? 1 : 0,
                                      0,
                                      0,
                                      Types<float>::TOGETHER,
                                      0,
                                      matmul,
                                      depthwise,
                                      sum,
                                      labels,
                                      fma_chains};
#endif
extern const Kernels<std::uint8_t> byte_kernels;
const Kernels<std::uint8_t> byte_kernels = {MNV2_TEXT(MNV2_NAMESPACE),
                                            LANES,
                                            PANEL_VECTORS,
                                            byte_tile_rows(PANEL_VECTORS),
                                            has_interleaved(2),
                                            HALVES ? 2 : 0,
                                            FOURS_VECTORS,
                                            FOURS_ROWS,
                                            WEIGHTS_TOGETHER,
                                            INPUT_OFFSET,
                                            matmul_bytes,
                                            depthwise_bytes,
                                            sum_bytes,
                                            labels,
                                            dot_chains};

}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
