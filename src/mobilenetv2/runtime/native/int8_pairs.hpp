// The matrix product over bytes for targets that multiply 16 bits, two steps of the depth at a time (MNV2_PAIRS).
// Inputs are widened once for all panels, with the segments of a pixel side by side; weights are widened as they are
// loaded.
#pragma once

#include "int8_matmul.hpp"
#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int WIDENED = 1 << 13;  // numbers of 16 bits: half of the first-level cache

// Widens `count` inputs, a multiple of four.
inline void widen(const std::uint8_t* from, int count, std::int16_t* to) {
  int k = 0;
  for (; k + 16 <= count; k += 16) store_widened(to + k, load_bytes(from + k));
  for (; k < count; k += 4) store_widened_quad(to + k, splat_quad(from + k));
}

// Widens the inputs of `count` pixels from `from` on.
inline void widen_pixels(const Matmul<std::uint8_t>& job, int from, int count, std::int16_t* widened) {
  const int depth = job.depth, segments = job.row_count * job.segment_count;
  const std::uint8_t* const in = job.in + from * job.in_pixel;
  if (segments == 1 && job.in_pixel == depth) return widen(in, count * depth, widened);
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(segments) * depth;
  for (int i = 0; i < segments; i++, widened += depth) {
    const std::uint8_t* pixel = in + i / job.segment_count * job.in_row + i % job.segment_count * job.in_segment;
    std::int16_t* to = widened;
    if (depth == BLOCK) {
      for (int p = 0; p < count; p++, pixel += job.in_pixel, to += row) store_widened(to, load_bytes(pixel));
    } else {
      for (int p = 0; p < count; p++, pixel += job.in_pixel, to += row) widen(pixel, depth, to);
    }
  }
}

// Adds the products of `depth` inputs of each row; returns the weights behind them.
template <int ROWS, int VECTORS>
inline const std::int8_t* add_pairs(const std::int16_t* in, std::ptrdiff_t row, int depth, const std::int8_t* weights,
                                    Ints (&sum)[ROWS][VECTORS]) {
  const std::int8_t* const end = weights + static_cast<std::ptrdiff_t>(depth) * (VECTORS * LANES);
  for (; weights != end; weights += 2 * VECTORS * LANES, in += 2) {
    Ints w[VECTORS];
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_weight_pairs(weights + 2 * j * LANES);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      const Ints input = splat_pair(in + i * row);
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = add_ints(sum[i][j], dot_pairs(input, w[j]));
    }
  }
  return weights;
}

// The tile of ROWS pixels x VECTORS vectors at pixel `from`, whose widened inputs are at `in`; null where there is no
// room for those of a pixel.
template <int ROWS, int VECTORS>
MNV2_NOINLINE void tile_of_pairs(const Matmul<std::uint8_t>& job, const Panel& panel, int from,
                                 const std::int16_t* in) {
  Ints sum[ROWS][VECTORS];
  start_sums(job, panel, from, sum);
  const std::int8_t* weights = job.weights + panel.weights;
  const int depth = job.row_count * job.segment_count * job.depth;
  if (ROWS > 1 || in) {
    add_pairs(in, depth, depth, weights, sum);
  } else if constexpr (ROWS == 1) {
    for (int r = 0; r < job.row_count; r++) {
      for (int s = 0; s < job.segment_count; s++) {
        const std::uint8_t* const segment = job.in + from * job.in_pixel + r * job.in_row + s * job.in_segment;
        for (int k = 0; k < job.depth; k += WIDENED) {
          const int count = job.depth - k < WIDENED ? job.depth - k : WIDENED;
          std::int16_t piece[WIDENED];
          widen(segment + k, count, piece);
          weights = add_pairs(piece, 0, count, weights, sum);
        }
      }
    }
  }
  AnyMode<OrderOf<VECTORS>>::finish(job, panel, from, sum);
}

template <int ROWS, int VECTORS>
inline void last_tile_of_pairs(const Matmul<std::uint8_t>& job, const Panel& panel, int from, int count,
                               const std::int16_t* in) {
  if constexpr (ROWS > 0) {
    if (count == ROWS) {
      tile_of_pairs<ROWS, VECTORS>(job, panel, from, in);
    } else {
      last_tile_of_pairs<ROWS - 1, VECTORS>(job, panel, from, count, in);
    }
  }
}

// A panel over `count` pixels from `from` on.
template <int VECTORS>
inline void run_panel_of_pairs(const Matmul<std::uint8_t>& job, const Panel& panel, int from, int count,
                               const std::int16_t* in) {
  constexpr int ROWS = byte_tile_rows(VECTORS);
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(job.row_count) * job.segment_count * job.depth;
  for (; count >= ROWS; from += ROWS, count -= ROWS, in += ROWS * row) {
    tile_of_pairs<ROWS, VECTORS>(job, panel, from, in);
  }
  last_tile_of_pairs<ROWS - 1, VECTORS>(job, panel, from, count, in);
}

inline void run_pairs(const Matmul<std::uint8_t>& job) {
  constexpr int ROWS = byte_tile_rows(PANEL_VECTORS);
  alignas(16) std::int16_t widened[WIDENED];
  const int room = WIDENED / (job.row_count * job.segment_count * job.depth);  // pixels
  const int at_once = room >= ROWS ? room / ROWS * ROWS : 1;
  for (int from = 0; from < job.pixels; from += at_once) {
    const int count = job.pixels - from < at_once ? job.pixels - from : at_once;
    if (room) widen_pixels(job, from, count, widened);
    for (int i = 0; i < job.panel_count; i++) {
      const Panel& panel = job.panels[i];
      static_assert(PANEL_VECTORS == 2, "panels of one and two vectors");
      if (panel.vectors == 1) {
        run_panel_of_pairs<1>(job, panel, from, count, room ? widened : nullptr);
      } else {
        run_panel_of_pairs<2>(job, panel, from, count, room ? widened : nullptr);
      }
    }
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
