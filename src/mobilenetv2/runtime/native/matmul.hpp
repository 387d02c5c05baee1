// The matrix product over pixels x output vectors, for the target that MNV2_NAMESPACE names: the tile over floats, and
// what runs tiles of either kind.
#pragma once

#include "int8_matmul.hpp"
#include "kernels.hpp"
#if defined(MNV2_PAIRS)
#include "int8_pairs.hpp"
#endif
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Adds the products of steps STEP to STEPS - 1 of the depth.
template <int STEP, int ROWS, int VECTORS>
inline void add_steps(const Steps (&values)[ROWS], const float* weights, Vec (&sum)[ROWS][VECTORS]) {
  if constexpr (STEP < STEPS) {
    Vec w[VECTORS];
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load(weights + (STEP * VECTORS + j) * LANES);
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = fma_step<STEP>(values[i], w[j], sum[i][j]);
    }
    add_steps<STEP + 1>(values, weights, sum);
  }
}

// The tile of ROWS pixels x VECTORS vectors at pixel `from`. Out of line, and one tile a call: with a loop around it,
// GCC runs out of registers and keeps weights or sums on the stack.
// AHEAD: a line of `ahead` is fetched with each step of the depth.
template <int ROWS, int VECTORS, bool AHEAD, class>
MNV2_NOINLINE void tile(const Matmul<float>& job, const Panel& panel, int from, const float* ahead) {
  Vec sum[ROWS][VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Vec start = load(job.bias + panel.channel + j * LANES);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = start;
  }
  const std::ptrdiff_t pixel = job.in_pixel;
  const float* weights = job.weights + panel.weights;
  const float* const tile_in = job.in + from * pixel;
  for (int r = 0; r < job.row_count; r++) {
    for (int s = 0; s < job.segment_count; s++) {
      const float* in = tile_in + r * job.in_row + s * job.in_segment;
      const float* const end = weights + static_cast<std::ptrdiff_t>(job.depth) * (VECTORS * LANES);
      if constexpr (STEPS > 1) {
        const float* const whole = weights + static_cast<std::ptrdiff_t>(job.depth / STEPS) * (STEPS * VECTORS * LANES);
        for (; weights != whole; weights += STEPS * VECTORS * LANES, in += STEPS) {
          if constexpr (AHEAD) {
            MNV2_UNROLL for (int k = 0; k < STEPS; k++, ahead += BLOCK) prefetch(ahead);
          }
          Steps values[ROWS];
          MNV2_UNROLL for (int i = 0; i < ROWS; i++) values[i] = load_steps(in + i * pixel);
          add_steps<0>(values, weights, sum);
        }
      }
      for (; weights != end; weights += VECTORS * LANES, in++) {
        if constexpr (AHEAD) {
          prefetch(ahead);
          ahead += BLOCK;
        }
        Vec w[VECTORS];
        MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load(weights + j * LANES);
        MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
          const Vec value = splat(in[i * pixel]);
          MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = fma(value, w[j], sum[i][j]);
        }
      }
    }
  }
  const Vec low = splat(job.low), high = splat(job.high);
  const int tail = job.channels - panel.channel - (VECTORS - 1) * LANES;  // lanes in use of the last vector
  const std::ptrdiff_t out_pixel = job.out_pixel, shortcut_pixel = job.shortcut_pixel;
  float* out[VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const int channel = panel.channel - job.out_channel + j * LANES;
    out[j] = job.out + from * out_pixel + channel / BLOCK * job.out_block + channel % BLOCK;
  }
  const float* const shortcut = job.shortcut ? job.shortcut + from * shortcut_pixel + panel.channel : nullptr;
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const bool whole = j < VECTORS - 1 || tail >= LANES;
      Vec value = lowest(highest(sum[i][j], low), high);
      if (shortcut) {
        const float* more = shortcut + i * shortcut_pixel + j * LANES;
        value = add(value, whole ? load(more) : load_some(more, tail));
      }
      float* const to = out[j] + i * out_pixel;
      if (whole) {
        store(to, value);
      } else {
        store_some(to, value, tail);
      }
    }
  }
}

// How a panel of floats is finished: in one way only.
struct Floats {
  static constexpr bool PARTS_ARE_SHORT = false, HALF = false;
};
template <class T, int VECTORS>
struct FinishChoice {
  using Type = Floats;
};
template <int VECTORS>
struct FinishChoice<std::uint8_t, VECTORS> {
  using Type = AnyMode<OrderOf<VECTORS>>;
};

template <int ROWS, int VECTORS, bool AHEAD, class FINISH, class T>
inline void run_tile(const Matmul<T>& job, const Panel& panel, int from, const typename Types<T>::Weight* ahead) {
#if defined(MNV2_HALVES)
  if constexpr (FINISH::HALF) {
    half_tile<ROWS, VECTORS, AHEAD, FINISH>(job, panel, from, ahead);
  } else
#endif
    tile<ROWS, VECTORS, AHEAD, FINISH>(job, panel, from, ahead);
}

// The last pixels, fewer than a full tile. AHEAD: as of a tile.
template <int ROWS, int VECTORS, bool AHEAD, class FINISH, class T>
inline void last_tile(const Matmul<T>& job, const Panel& panel, int from, const typename Types<T>::Weight* ahead) {
  if constexpr (ROWS > 0) {
    if (job.pixels - from == ROWS) {
      run_tile<ROWS, VECTORS, AHEAD, FINISH>(job, panel, from, ahead);
    } else {
      last_tile<ROWS - 1, VECTORS, AHEAD, FINISH>(job, panel, from, ahead);
    }
  }
}

// The same in tiles of 4, 2 and 1 pixels, for a small library.
template <int ROWS, int VECTORS, class FINISH, class T>
inline void last_tiles(const Matmul<T>& job, const Panel& panel, int from) {
  if constexpr (ROWS > 0) {
    for (; from + ROWS <= job.pixels; from += ROWS) run_tile<ROWS, VECTORS, false, FINISH>(job, panel, from, nullptr);
    last_tiles<ROWS / 2, VECTORS, FINISH>(job, panel, from);
  }
}

template <class T>
inline void run_panels(const Matmul<T>& job);

// A product whose inputs are summed, some pixels at a time.
inline void run_summed(const Matmul<std::uint8_t>& job) {
  constexpr int AT_ONCE = 1680;  // whole tiles of 1 to 6, 8, 12 and 14 rows
  std::int32_t sums[AT_ONCE];
  Matmul<std::uint8_t> piece = job;
  piece.input_sums = sums;
  for (int from = 0; from < job.pixels; from += AT_ONCE) {
    piece.pixels = job.pixels - from < AT_ONCE ? job.pixels - from : AT_ONCE;
    sum_inputs(job, from, piece.pixels, sums);
    run_panels(piece);
    piece.in += AT_ONCE * job.in_pixel;
    if (job.out) piece.out += AT_ONCE * job.out_pixel;
    if (job.shortcut) piece.shortcut += AT_ONCE * job.shortcut_pixel;
    if (job.requantize.floats) piece.requantize.floats += AT_ONCE * job.out_pixel;
    piece.ahead_lines = 0;
  }
}

// Returns how many lines of `ahead` have been fetched.
template <int ROWS, int VECTORS, class FINISH, class T>
inline int run_tiles(const Matmul<T>& job, const Panel& panel, int fetched) {
  constexpr int LINE = 64 / sizeof(T);
  constexpr int STEP = Types<T>::TOGETHER;  // of the depth, each of which fetches a line
  const int lines = job.row_count * job.segment_count * job.depth / STEP;
  const auto ahead = [&] { return job.ahead + static_cast<std::ptrdiff_t>(fetched) * LINE; };
  int from = 0;
  for (; from + ROWS <= job.pixels && fetched + lines <= job.ahead_lines; from += ROWS, fetched += lines) {
    run_tile<ROWS, VECTORS, true, FINISH>(job, panel, from, ahead());
  }
  for (; from + ROWS <= job.pixels; from += ROWS) run_tile<ROWS, VECTORS, false, FINISH>(job, panel, from, nullptr);
  if constexpr (FINISH::PARTS_ARE_SHORT) {  // there may be no other tile
    if (from < job.pixels && fetched + lines <= job.ahead_lines) {
      last_tile<ROWS - 1, VECTORS, true, FINISH>(job, panel, from, ahead());
      return fetched + lines;
    }
  }
  if constexpr (IS_SMALL && !FINISH::PARTS_ARE_SHORT) {
    last_tiles<(ROWS > 4 ? 4 : ROWS / 2), VECTORS, FINISH>(job, panel, from);
  } else {
    last_tile<ROWS - 1, VECTORS, false, FINISH>(job, panel, from, nullptr);
  }
  return fetched;
}

template <int VECTORS, class T>
inline int run_panel(const Matmul<T>& job, const Panel& panel, int fetched) {
  constexpr int ROWS = sizeof(T) == 1 ? byte_tile_rows(VECTORS) : tile_rows(VECTORS);
  return run_tiles<ROWS, VECTORS, typename FinishChoice<T, VECTORS>::Type>(job, panel, fetched);
}

#if defined(MNV2_HALVES)

inline int run_half_panel(const Matmul<std::uint8_t>& job, const Panel& panel, int fetched) {
  constexpr int ROWS = 12;
  return panel.vectors == 1 ? run_tiles<ROWS, 1, WithHalf<InOrderPacked<1>>>(job, panel, fetched)
                            : run_tiles<ROWS, 2, WithHalf<InOrderPacked<2>>>(job, panel, fetched);
}

#endif

#if defined(MNV2_FOURS)

template <template <int> class ORDER>
inline int run_panel_in_order(const Matmul<std::uint8_t>& job, const Panel& panel, int fetched) {
  switch (panel.vectors) {
    case 1:
      return run_tiles<FOURS_ROWS, 1, Clamping<ORDER<1>>>(job, panel, fetched);
    case 2:  // half as large: the end of a tile runs beside the next one's products
      return run_tiles<FOURS_ROWS / 2, 2, Clamping<ORDER<2>>>(job, panel, fetched);
    default:
      return run_tiles<FOURS_ROWS, 3, Clamping<ORDER<3>>>(job, panel, fetched);
  }
}

// Panels with their channels in order. In fours a tile ends with a row, unless rows end with groups anyway; elsewhere
// tiles are of one size.
inline void run_in_order(const Matmul<std::uint8_t>& job) {
  const int width = job.fours_width, tiles = (job.pixels + FOURS_ROWS - 1) / FOURS_ROWS;
  const int row = !width ? (job.pixels + tiles - 1) / tiles : width % FOUR ? width : job.pixels;
  const std::ptrdiff_t out_row = width ? (width / FOUR + 1) * FOUR * BLOCK : row * job.out_pixel;
  Matmul<std::uint8_t> part = job;
  int fetched = 0;
  for (int i = 0; i < job.panel_count; i++) {
    const Panel& panel = job.panels[i];
    part.in = job.in;
    part.out = job.out;
    for (int done = 0; done < job.pixels; done += row) {
      part.pixels = job.pixels - done < row ? job.pixels - done : row;
      fetched = width ? run_panel_in_order<InFours>(part, panel, fetched)
                      : run_panel_in_order<InOrderPacked>(part, panel, fetched);
      part.in += row * job.in_pixel;
      part.out += out_row;
    }
  }
}

#endif

template <class T>
inline void run_panels(const Matmul<T>& job) {
  int fetched = 0;
  if constexpr (sizeof(T) == 1) {
    if (job.input_factor && !job.input_sums) return run_summed(job);
#if defined(MNV2_FOURS)
    if (job.in_order) return run_in_order(job);
#endif
#if defined(MNV2_PAIRS)
    return run_pairs(job);
#endif
  }
  for (int i = 0; i < job.panel_count; i++) {
    const Panel& panel = job.panels[i];
#if defined(MNV2_HALVES)
    if constexpr (sizeof(T) == 1) {
      if (panel.half) {
        fetched = run_half_panel(job, panel, fetched);
        continue;
      }
    }
#endif
    switch (panel.vectors) {
      case 1:
        fetched = run_panel<1>(job, panel, fetched);
        break;
      case 2:
        fetched = run_panel<2>(job, panel, fetched);
        break;
      case 3:
        if constexpr (PANEL_VECTORS >= 3) fetched = run_panel<3>(job, panel, fetched);
        break;
      default:
        if constexpr (PANEL_VECTORS >= 4) fetched = run_panel<4>(job, panel, fetched);
    }
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
