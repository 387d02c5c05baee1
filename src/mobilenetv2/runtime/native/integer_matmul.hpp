// The tile of the matrix product over bytes, for the target that MNV2_NAMESPACE names; matmul.hpp runs it.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr double ADD_UNITS = 1 << 20;

inline Vec between(Vec value, float low, float high) { return lowest(highest(value, splat(low)), splat(high)); }

inline Wide rounded_twice(Wide value, Wide fraction, Wide power) {
  return half_away(mul(down(add(mul(value, fraction), splat_wide(0.5))), power));
}

inline Wide rounded_twice(Wide value, const Twice& by) {
  return rounded_twice(value, splat_wide(by.fraction), splat_wide(by.power));
}

// A sum of the channels from `channel` on, times their factors.
inline Vec rescaled(const Requantize& to, Ints sum, int channel) {
  if (!to.fraction) return mul(to_floats(sum), load(to.factor + channel));
  return to_floats(
      to_ints(rounded_twice(to_wide(sum), load_wide(to.fraction + channel), load_wide(to.power + channel))));
}

// Adds what the shortcut holds to a product.
inline Vec with_shortcut(const Requantize& to, Vec product, Ints shortcut) {
  shortcut = add_ints(shortcut, splat_ints(-to.shortcut_zero));
  if (!to.fraction) return add(product, mul(to_floats(shortcut), splat(to.shortcut_factor)));
  const Wide first = to_wide(to_ints(between(product, to.product_low, to.product_high)));
  const Wide total = add(rounded_twice(mul(first, splat_wide(ADD_UNITS)), to.product),
                         rounded_twice(mul(to_wide(shortcut), splat_wide(ADD_UNITS)), to.shortcut));
  return to_floats(to_ints(rounded_twice(total, to.total)));
}

// The tile of ROWS pixels x VECTORS vectors at pixel `from`. AHEAD: a line of `ahead` is fetched with each step.
template <int ROWS, int VECTORS, bool AHEAD>
MNV2_NOINLINE void tile(const Matmul<std::uint8_t>& job, const Panel& panel, int from, const std::int8_t* ahead) {
  Ints sum[ROWS][VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Ints start = load_ints(job.bias + panel.channel + j * LANES);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = start;
  }
  const std::ptrdiff_t pixel = job.in_pixel;
  const std::int8_t* weights = job.weights + panel.weights;
  const std::uint8_t* const tile_in = job.in + from * pixel;
  for (int r = 0; r < job.row_count; r++) {
    for (int s = 0; s < job.segment_count; s++) {
      const std::uint8_t* in = tile_in + r * job.in_row + s * job.in_segment;
      const std::int8_t* const end = weights + static_cast<std::ptrdiff_t>(job.depth) * (VECTORS * LANES);
      for (; weights != end; weights += 4 * VECTORS * LANES, in += 4) {
        if constexpr (AHEAD) {
          prefetch(ahead);
          ahead += 64;
        }
        Ints w[VECTORS];
        MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_weights(weights + 4 * j * LANES);
        MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
          const Ints value = splat_quad(in + i * pixel);
          MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = dot(sum[i][j], value, w[j]);
        }
      }
    }
  }
  const Requantize& to = job.requantize;
  const Ints zero = splat_ints(to.zero);
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const int channel = panel.channel + j * LANES;
    const int tail = job.channels - channel;  // lanes in use
    const int at = channel - job.out_channel;
    std::uint8_t* out = job.out + from * job.out_pixel + at / BLOCK * job.out_block + at % BLOCK;
    float* real = to.real ? to.real + from * job.out_pixel + at : nullptr;
    const std::uint8_t* more = job.shortcut ? job.shortcut + from * job.shortcut_pixel + channel : nullptr;
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      Vec value = rescaled(to, sum[i][j], channel);
      if (more) {
        value = with_shortcut(to, value, load_byte_ints(more, tail < LANES ? tail : LANES));
        more += job.shortcut_pixel;
      }
      value = between(value, job.low, job.high);
      if (real) {
        store_some(real, mul(value, splat(to.real_factor)), tail < LANES ? tail : LANES);
        real += job.out_pixel;
      } else {
        const Ints bytes = add_ints(to_ints(value), zero);
        if (tail >= LANES) {
          store_bytes(out, bytes);
        } else {
          store_some_bytes(out, bytes, tail);
        }
        out += job.out_pixel;
      }
    }
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
