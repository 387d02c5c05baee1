// The matrix product over pixels x output vectors of bfloat16, for the target that MNV2_NAMESPACE names: the tile.
// Products of two neighbours in the depth are added to sums of floats at once.
#pragma once

#include "../kernels.hpp"
#include "pairs.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Adds the products of one pair of the depth.
template <int ROWS, int VECTORS, class Load>
inline void add_pair(const bfloat16* in, std::ptrdiff_t pixel, const bfloat16* weights, const Load& load_input,
                     Vec (&sum)[ROWS][VECTORS]) {
  Pairs w[VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_pairs(weights + 2 * j * LANES);
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    const Pairs value = load_input(in + i * pixel);
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = dot(sum[i][j], value, w[j]);
  }
}

// Results of pixels that touch in memory, whole vectors.
template <int ROWS, int VECTORS>
inline void store_touching(const Matmul<bfloat16>& job, bfloat16* const (&out)[VECTORS],
                           const Vec (&sum)[ROWS][VECTORS]) {
  const Limits limits = make_limits(job.low, job.high);
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    MNV2_UNROLL for (int i = 0; i + 1 < ROWS; i += 2) store_two(out[j] + i * BLOCK, sum[i][j], sum[i + 1][j], limits);
    if (ROWS % 2) store_one(out[j] + (ROWS - 1) * BLOCK, sum[ROWS - 1][j], limits);
  }
}

// The tile's results, clamped, with the shortcut: floats where the job has a place for them, else bfloat16.
template <int ROWS, int VECTORS>
inline void store_tile(const Matmul<bfloat16>& job, const Panel& panel, int from, const Vec (&sum)[ROWS][VECTORS]) {
  const Vec low = splat(job.low), high = splat(job.high);
  const int tail = job.channels - panel.channel - (VECTORS - 1) * LANES;  // lanes in use of the last vector
  const auto store_lanes = [&](auto* to, Vec value, int j) {
    if (j < VECTORS - 1 || tail >= LANES) {
      store(to, value);
    } else {
      store_some(to, value, tail);
    }
  };
  if (float* const floats = job.requantize.floats) {
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
        store_lanes(floats + (from + i) * job.out_pixel + panel.channel + j * LANES,
                    lowest(highest(sum[i][j], low), high), j);
      }
    }
    return;
  }
  bfloat16* out[VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const int channel = panel.channel - job.out_channel + j * LANES;
    out[j] = job.out + from * job.out_pixel + channel / BLOCK * job.out_block + channel % BLOCK;
  }
  if (job.out_pixel == BLOCK && !job.shortcut) return store_touching<ROWS, VECTORS>(job, out, sum);
  const bfloat16* const shortcut = job.shortcut ? job.shortcut + from * job.shortcut_pixel + panel.channel : nullptr;
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      Vec value = lowest(highest(sum[i][j], low), high);
      if (shortcut) {
        const bfloat16* const more = shortcut + i * job.shortcut_pixel + j * LANES;
        value = add(value, j < VECTORS - 1 || tail >= LANES ? load(more) : load_some(more, tail));
      }
      store_lanes(out[j] + i * job.out_pixel, value, j);
    }
  }
}

// The tile of ROWS pixels x VECTORS vectors at pixel `from`, out of line as the one over floats.
// AHEAD: a line of `ahead` is fetched with each pair. TAIL: segments end in half a pair.
template <int ROWS, int VECTORS, bool AHEAD, bool TAIL>
MNV2_NOINLINE void pair_tile(const Matmul<bfloat16>& job, const Panel& panel, int from, const bfloat16* ahead) {
  constexpr int LINE = 64 / sizeof(bfloat16);
  Vec sum[ROWS][VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Vec start = load(job.bias + panel.channel + j * LANES);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = start;
  }
  const std::ptrdiff_t pixel = job.in_pixel;
  const bfloat16* weights = job.weights + panel.weights;
  const bfloat16* const tile_in = job.in + from * pixel;
  for (int r = 0; r < job.row_count; r++) {
    for (int s = 0; s < job.segment_count; s++) {
      const bfloat16* in = tile_in + r * job.in_row + s * job.in_segment;
      const bfloat16* const end = weights + static_cast<std::ptrdiff_t>(job.depth / 2 - TAIL) * (2 * VECTORS * LANES);
      for (; weights != end; weights += 2 * VECTORS * LANES, in += 2) {
        if constexpr (AHEAD) {
          prefetch(ahead);
          ahead += LINE;
        }
        add_pair(in, pixel, weights, [](const bfloat16* from_) { return splat_pair(from_); }, sum);
      }
      if constexpr (TAIL) {
        add_pair(in, pixel, weights, [](const bfloat16* from_) { return splat_first(from_); }, sum);
        weights += 2 * VECTORS * LANES;
      }
    }
  }
  store_tile(job, panel, from, sum);
}

template <int ROWS, int VECTORS, bool AHEAD, class>
inline void tile(const Matmul<bfloat16>& job, const Panel& panel, int from, const bfloat16* ahead) {
  if (job.tail) {
    pair_tile<ROWS, VECTORS, false, true>(job, panel, from, nullptr);
  } else {
    pair_tile<ROWS, VECTORS, AHEAD, false>(job, panel, from, ahead);
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
