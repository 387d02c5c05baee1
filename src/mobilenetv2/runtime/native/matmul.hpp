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

// How a panel of floats is finished: in one way only. And what its vectors are.
struct Floats {
  static constexpr bool PARTS_ARE_SHORT = false, HALF = false;
  using Vector = Vec;
  static constexpr int WIDTH = LANES;
  static Vec vector(const float* from) { return load(from); }
  static Vec some(const float* from, int count) { return load_some(from, count); }
  static Vec everywhere(float value) { return splat(value); }
};

#if defined(MNV2_FLOAT_HALVES)

struct HalfFloats {
  static constexpr bool PARTS_ARE_SHORT = false, HALF = false;
  using Vector = HalfVec;
  static constexpr int WIDTH = LANES / 2;
  static HalfVec vector(const float* from) { return load_half(from); }
  static HalfVec some(const float* from, int count) { return load_some_half(from, count); }
  static HalfVec everywhere(float value) { return splat_half(value); }
};

#endif

// The tile of ROWS pixels x VECTORS vectors at pixel `from`. Out of line, and one tile a call: with a loop around it,
// GCC runs out of registers and keeps weights or sums on the stack.
// AHEAD: a line of `ahead` is fetched with each step of the depth.
template <int ROWS, int VECTORS, bool AHEAD, class FINISH>
MNV2_NOINLINE void tile(const Matmul<float>& job, const Panel& panel, int from, const float* ahead) {
  using Vector = typename FINISH::Vector;
  constexpr int WIDTH = FINISH::WIDTH;
  Vector sum[ROWS][VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Vector start = FINISH::vector(job.bias + panel.channel + j * WIDTH);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = start;
  }
  const std::ptrdiff_t pixel = job.in_pixel;
  const float* weights = job.weights + panel.weights;
  const float* const tile_in = job.in + from * pixel;
  for (int r = 0; r < job.row_count; r++) {
    for (int s = 0; s < job.segment_count; s++) {
      const float* in = tile_in + r * job.in_row + s * job.in_segment;
      const float* const end = weights + static_cast<std::ptrdiff_t>(job.depth) * (VECTORS * WIDTH);
      if constexpr (STEPS > 1) {
        const float* const whole = weights + static_cast<std::ptrdiff_t>(job.depth / STEPS) * (STEPS * VECTORS * WIDTH);
        for (; weights != whole; weights += STEPS * VECTORS * WIDTH, in += STEPS) {
          if constexpr (AHEAD) {
            MNV2_UNROLL for (int k = 0; k < STEPS; k++, ahead += BLOCK) prefetch(ahead);
          }
          Steps values[ROWS];
          MNV2_UNROLL for (int i = 0; i < ROWS; i++) values[i] = load_steps(in + i * pixel);
          add_steps<0>(values, weights, sum);
        }
      }
      for (; weights != end; weights += VECTORS * WIDTH, in++) {
        if constexpr (AHEAD) {
          prefetch(ahead);
          ahead += BLOCK;
        }
        Vector w[VECTORS];
        MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = FINISH::vector(weights + j * WIDTH);
        MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
          const Vector value = FINISH::everywhere(in[i * pixel]);
          MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = fma(value, w[j], sum[i][j]);
        }
      }
    }
  }
  const Vector low = FINISH::everywhere(job.low), high = FINISH::everywhere(job.high);
  const int tail = job.channels - panel.channel - (VECTORS - 1) * WIDTH;  // lanes in use of the last vector
  const std::ptrdiff_t out_pixel = job.out_pixel, shortcut_pixel = job.shortcut_pixel;
  float* out[VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const int channel = panel.channel - job.out_channel + j * WIDTH;
    out[j] = job.out + from * out_pixel + channel / BLOCK * job.out_block + channel % BLOCK;
  }
  const float* const shortcut = job.shortcut ? job.shortcut + from * shortcut_pixel + panel.channel : nullptr;
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const bool whole = j < VECTORS - 1 || tail >= WIDTH;
      Vector value = lowest(highest(sum[i][j], low), high);
      if (shortcut) {
        const float* more = shortcut + i * shortcut_pixel + j * WIDTH;
        value = add(value, whole ? FINISH::vector(more) : FINISH::some(more, tail));
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

// A tile of `rows` pixels, at most ROWS; of none nothing. AHEAD: as of a tile.
template <int ROWS, int VECTORS, bool AHEAD, class FINISH, class T>
inline void tile_of(int rows, const Matmul<T>& job, const Panel& panel, int from,
                    const typename Types<T>::Weight* ahead) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) {
      run_tile<ROWS, VECTORS, AHEAD, FINISH>(job, panel, from, ahead);
    } else {
      tile_of<ROWS - 1, VECTORS, AHEAD, FINISH>(rows, job, panel, from, ahead);
    }
  }
}

// The last pixels, fewer than a full tile, in tiles of 4, 2 and 1, for a small library.
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
      tile_of<ROWS - 1, VECTORS, true, FINISH>(job.pixels - from, job, panel, from, ahead());
      return fetched + lines;
    }
  }
  if constexpr (IS_SMALL && !FINISH::PARTS_ARE_SHORT) {
    last_tiles<(ROWS > 4 ? 4 : ROWS / 2), VECTORS, FINISH>(job, panel, from);
  } else {
    tile_of<ROWS - 1, VECTORS, false, FINISH>(job.pixels - from, job, panel, from, nullptr);
  }
  return fetched;
}

// The same in tiles of about one size, the largest of which fetch: with one vector a tile of few pixels would wait for
// every sum.
template <int ROWS, class FINISH>
inline int run_even_tiles(const Matmul<float>& job, const Panel& panel, int fetched) {
  const int lines = job.row_count * job.segment_count * job.depth;
  const int tiles = (job.pixels + ROWS - 1) / ROWS;
  int from = 0;
  for (int i = 0; i < tiles; i++) {
    const int rows = job.pixels / tiles + (i < job.pixels % tiles ? 1 : 0);
    if (rows == ROWS && fetched + lines <= job.ahead_lines) {
      const float* const ahead = job.ahead + static_cast<std::ptrdiff_t>(fetched) * BLOCK;
      run_tile<ROWS, 1, true, FINISH>(job, panel, from, ahead);
      fetched += lines;
    } else {
      tile_of<ROWS, 1, false, FINISH>(rows, job, panel, from, nullptr);
    }
    from += rows;
  }
  return fetched;
}

template <int VECTORS, class T>
inline int run_panel(const Matmul<T>& job, const Panel& panel, int fetched) {
  constexpr int ROWS = sizeof(T) == 1 ? byte_tile_rows(VECTORS) : tile_rows(VECTORS);
  if constexpr (VECTORS == 1 && sizeof(T) == sizeof(float) && FLOAT_HALVES) {
    return run_even_tiles<ROWS, Floats>(job, panel, fetched);
  }
  return run_tiles<ROWS, VECTORS, typename FinishChoice<T, VECTORS>::Type>(job, panel, fetched);
}

#if defined(MNV2_HALVES)

inline int run_half_panel(const Matmul<std::uint8_t>& job, const Panel& panel, int fetched) {
  constexpr int ROWS = 12;
  return panel.vectors == 1 ? run_tiles<ROWS, 1, WithHalf<InOrderPacked<1>>>(job, panel, fetched)
                            : run_tiles<ROWS, 2, WithHalf<InOrderPacked<2>>>(job, panel, fetched);
}

#endif

#if defined(MNV2_FLOAT_HALVES)

inline int run_half_panel(const Matmul<float>& job, const Panel& panel, int fetched) {
  return run_even_tiles<tile_rows(1), HalfFloats>(job, panel, fetched);
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
    if constexpr (sizeof(T) == 1 ? HALVES : sizeof(T) == sizeof(float) && FLOAT_HALVES) {
      if (panel.half) {
        fetched = run_half_panel(job, panel, fetched);
        continue;
      }
    }
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
