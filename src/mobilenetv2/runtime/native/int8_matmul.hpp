// The tile of the matrix product over bytes, for the target that MNV2_NAMESPACE names; matmul.hpp runs it.
#pragma once

#include "kernels.hpp"
#include "requantize.hpp"
#include "simd.hpp"
#include "tile_stores.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Where the tile of `panel` at pixel `from` goes.
inline TileOut tile_out(const Matmul<std::uint8_t>& job, const Panel& panel, int from) {
  const int at = panel.channel - job.out_channel;
  return {job.out + from * job.out_pixel + at / BLOCK * job.out_block + at % BLOCK, job.out_pixel, job.out_block,
          at % BLOCK, job.channels - panel.channel};
}

// Puts a tile's sums into memory.
template <int ROWS, int VECTORS>
inline void keep(const Ints (&sum)[ROWS][VECTORS], std::int32_t* kept) {
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) store_ints(kept + (i * VECTORS + j) * LANES, sum[i][j]);
  }
}

// A tile's sums, rounded in a mode that is cheap enough to be inlined, to bytes.
template <RoundingMode MODE, class Order, int ROWS, int VECTORS>
inline void finish_tile(const Matmul<std::uint8_t>& job, const Panel& panel, int from, Ints (&sum)[ROWS][VECTORS]) {
  const Requantize& to = job.requantize;
  const int channels = job.channels - panel.channel;
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Codes<MODE, PerLane> codes(to, panel.channel + j * LANES, job.low, job.high);
    if constexpr (MODE == RoundingMode::ONCE) {
      const Vec share = splat(to.shortcut_factor);
      const Ints offset = splat_ints(-to.shortcut_zero);
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
        if (job.shortcut) {
          const std::uint8_t* const more = job.shortcut + (from + i) * job.shortcut_pixel + panel.channel;
          sum[i][j] = codes(sum[i][j], add_ints(Order::shortcut(more, j, channels), offset), share);
        } else {
          sum[i][j] = codes(sum[i][j]);
        }
      }
    } else {
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = codes(sum[i][j]);
      if constexpr (MODE == RoundingMode::TWICE_NON_NEGATIVE && !Order::CLAMPS) {
        const Vec low = splat(job.low), high = splat(job.high);
        MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = to_ints(clamped(to_floats(sum[i][j]), low, high));
      }
    }
  }
  if (to.zero) {
    const Ints zero = splat_ints(to.zero);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = add_ints(sum[i][j], zero);
    }
  }
  Order::template store<ROWS>(sum, tile_out(job, panel, from));
}

// What is the same for all pixels of a tile. Stored bytes may be anywhere, so that the compiler would read it again
// after each of them.
struct NearTile {
  const float *factor, *half;
  TileOut out;
};

// Pixels FIRST to ROWS - 1 of a tile, rounded twice in float32, to bytes; as many at a time as are packed together,
// since there is no room for more beside the sums. The bits of `unsure` are pixels that may be a step off: nothing is
// stored.
template <RoundingMode MODE, class Order, int FIRST, int ROWS, int VECTORS>
inline void finish_near(const Matmul<std::uint8_t>& job, const Panel& panel, int from, const Ints (&sum)[ROWS][VECTORS],
                        const NearTile& near, unsigned& unsure) {
  if constexpr (FIRST < ROWS) {
    constexpr int COUNT = ROWS - FIRST < Order::PIXELS_TOGETHER ? ROWS - FIRST : Order::PIXELS_TOGETHER;
    const Requantize& to = job.requantize;
    const Vec low = splat(job.low), high = splat(job.high);
    Ints code[COUNT][VECTORS];
    Vec worst = zero();
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const NearCodes<MODE> codes{load(near.factor + j * LANES), load(near.half + j * LANES)};
      MNV2_UNROLL for (int i = 0; i < COUNT; i++) {
        Vec value = codes(sum[FIRST + i][j], worst);
        if constexpr (MODE == RoundingMode::TWICE) {
          if (job.shortcut) {
            const std::uint8_t* const more = job.shortcut + (from + FIRST + i) * job.shortcut_pixel + panel.channel;
            const Ints other =
                add_ints(Order::shortcut(more, j, job.channels - panel.channel), splat_ints(-to.shortcut_zero));
            const Vec product = clamped(nearest(value), splat(to.product_low), splat(to.product_high));
            value =
                add(mul(product, splat(to.near.product_share)), mul(to_floats(other), splat(to.near.shortcut_share)));
            worst = larger_magnitude(worst, off_whole(value));
          }
        }
        if constexpr (MODE == RoundingMode::TWICE || !Order::CLAMPS) value = clamped(value, low, high);
        code[i][j] = to_ints(value);
        if constexpr (MODE == RoundingMode::TWICE) code[i][j] = add_ints(code[i][j], splat_ints(to.zero));
      }
    }
    if (near_halves(to, worst)) {
      unsure |= ((1u << COUNT) - 1) << FIRST;
    } else {
      TileOut out = near.out;
      out.out += FIRST * out.pixel;
      Order::template store<COUNT>(code, out);
    }
    finish_near<MODE, Order, FIRST + COUNT>(job, panel, from, sum, near, unsure);
  }
}

// One pixel's sums, rounded twice, to bytes.
template <class Order, int VECTORS>
inline void finish_pixel_twice(const Matmul<std::uint8_t>& job, const Panel& panel, int pixel,
                               const std::int32_t* sums) {
  const Requantize& to = job.requantize;
  Ints bytes[1][VECTORS];
  for (int j = 0; j < VECTORS; j++) {
    const Codes<RoundingMode::TWICE, PerLane> codes(to, panel.channel + j * LANES, job.low, job.high);
    const Ints sum = load_ints(sums + j * LANES);
    Ints code;
    if (job.shortcut) {
      const std::uint8_t* const more = job.shortcut + pixel * job.shortcut_pixel + panel.channel;
      const Ints shortcut = Order::shortcut(more, j, job.channels - panel.channel);
      code = codes(sum, add_ints(shortcut, splat_ints(-to.shortcut_zero)), to);
    } else {
      code = codes(sum);
    }
    bytes[0][j] = add_ints(code, splat_ints(to.zero));
  }
  Order::template store<1>(bytes, tile_out(job, panel, pixel));
}

// The same where results below 0 are stored as 0, of the pixels of `unsure` among FIRST to ROWS - 1, as many at a time
// as are packed together.
template <class Order, int FIRST, int ROWS, int VECTORS>
inline void finish_non_negative(const Matmul<std::uint8_t>& job, const Panel& panel, int from, const std::int32_t* sums,
                                unsigned unsure) {
  if constexpr (FIRST < ROWS) {
    constexpr int COUNT = ROWS - FIRST < Order::PIXELS_TOGETHER ? ROWS - FIRST : Order::PIXELS_TOGETHER;
    if (unsure >> FIRST & 1) {
      Ints sum[COUNT][VECTORS];
      for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < VECTORS; j++) sum[i][j] = load_ints(sums + ((FIRST + i) * VECTORS + j) * LANES);
      }
      finish_tile<RoundingMode::TWICE_NON_NEGATIVE, Order>(job, panel, from + FIRST, sum);
    }
    finish_non_negative<Order, FIRST + COUNT, ROWS, VECTORS>(job, panel, from, sums, unsure);
  }
}

// The pixels of `unsure`, in doubles.
template <RoundingMode MODE, class Order, int ROWS, int VECTORS>
MNV2_NOINLINE void finish_unsure(const Matmul<std::uint8_t>& job, const Panel& panel, int from,
                                 const std::int32_t* sums, unsigned unsure) {
  if constexpr (MODE == RoundingMode::TWICE) {
    for (int i = 0; i < ROWS; i++) {
      if (unsure >> i & 1) finish_pixel_twice<Order, VECTORS>(job, panel, from + i, sums + i * VECTORS * LANES);
    }
  } else {
    finish_non_negative<Order, 0, ROWS, VECTORS>(job, panel, from, sums, unsure);
  }
}

// A tile's sums, rounded twice, to bytes.
template <RoundingMode MODE, class Order, int ROWS, int VECTORS>
MNV2_INLINE_FOR_SPEED void finish_twice(const Matmul<std::uint8_t>& job, const Panel& panel, int from,
                                        const Ints (&sum)[ROWS][VECTORS]) {
  unsigned unsure = 0;
  const Requantize& to = job.requantize;
  const NearTile near{to.factor + panel.channel, to.half + panel.channel, tile_out(job, panel, from)};
  finish_near<MODE, Order, 0>(job, panel, from, sum, near, unsure);
  if (!unsure) return;
  alignas(64) std::int32_t kept[ROWS * VECTORS * LANES];
  keep(sum, kept);
  finish_unsure<MODE, Order, ROWS, VECTORS>(job, panel, from, kept, unsure);
}

// A tile's sums, rounded twice, to floats.
template <int ROWS, int VECTORS>
MNV2_NOINLINE void finish_floats(const Matmul<std::uint8_t>& job, const Panel& panel, int from,
                                 const std::int32_t* sums) {
  const Requantize& to = job.requantize;
  for (int i = 0; i < ROWS; i++, sums += VECTORS * LANES) {
    for (int j = 0; j < VECTORS; j++) {
      const int channel = panel.channel + j * LANES, rest = job.channels - channel;
      store_some(to.floats + (from + i) * job.out_pixel + channel,
                 float_results(to, load_ints(sums + j * LANES), channel, job.low, job.high),
                 rest < LANES ? rest : LANES);
    }
  }
}

// input_factor times the inputs of each of `count` pixels from `from` on.
MNV2_NOINLINE void sum_inputs(const Matmul<std::uint8_t>& job, int from, int count, std::int32_t* sums) {
  const std::uint8_t* pixel = job.in + from * job.in_pixel;
  const int whole = job.tail ? job.depth - 4 : job.depth;
  for (int p = 0; p < count; p++, pixel += job.in_pixel) {
    Ints sum = splat_ints(0);
    int rest = 0;
    for (int r = 0; r < job.row_count; r++) {
      for (int s = 0; s < job.segment_count; s++) {
        const std::uint8_t* const in = pixel + r * job.in_row + s * job.in_segment;
        int k = 0;
        for (; k + 4 * LANES <= whole; k += 4 * LANES) sum = add_quads(sum, load_quads(in + k, LANES));
        if (k < whole) sum = add_quads(sum, load_quads(in + k, (whole - k) / 4));
        for (int i = 0; i < job.tail; i++) rest += in[whole + i];
      }
    }
    sums[p] = job.input_factor * (sum_lanes(sum) + rest);
  }
}

// Adds the products of quads STEP to INPUT_STEPS - 1 of the depth.
template <int STEP, int ROWS, int VECTORS>
inline void add_input_steps(const InputSteps (&inputs)[ROWS], const std::int8_t* weights, Sums (&sums)[ROWS][VECTORS]) {
  if constexpr (STEP < INPUT_STEPS) {
    Ints w[VECTORS];
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_weights(weights + 4 * (STEP * VECTORS + j) * LANES);
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) sums[i][j] = dot_step<STEP>(sums[i][j], inputs[i], w[j]);
    }
    add_input_steps<STEP + 1>(inputs, weights, sums);
  }
}

// A tile's sums to bytes, in any mode.
template <class Order>
struct AnyMode {
  static constexpr bool PARTS_ARE_SHORT = false, HALF = false;
  template <int ROWS, int VECTORS>
  static void finish(const Matmul<std::uint8_t>& job, const Panel& panel, int from, Ints (&sum)[ROWS][VECTORS]) {
    const RoundingMode mode = job.requantize.mode;
    if (!IS_SMALL && Order::CLAMPS && mode == RoundingMode::ONCE_SATURATING) {
      finish_tile<RoundingMode::ONCE_SATURATING, Order>(job, panel, from, sum);
    } else if (mode == RoundingMode::ONCE || mode == RoundingMode::ONCE_SATURATING) {
      finish_tile<RoundingMode::ONCE, Order>(job, panel, from, sum);
    } else if (mode == RoundingMode::TWICE_NON_NEGATIVE) {
      finish_twice<RoundingMode::TWICE_NON_NEGATIVE, Order>(job, panel, from, sum);
    } else if (mode == RoundingMode::TWICE) {
      finish_twice<RoundingMode::TWICE, Order>(job, panel, from, sum);
    } else {
      alignas(64) std::int32_t kept[ROWS * VECTORS * LANES];
      keep(sum, kept);
      finish_floats<ROWS, VECTORS>(job, panel, from, kept);
    }
  }
};

// The same in a mode that packing clamps, with channels in order.
template <class Order>
struct Clamping {
  static constexpr bool PARTS_ARE_SHORT = true, HALF = false;
  template <int ROWS, int VECTORS>
  static void finish(const Matmul<std::uint8_t>& job, const Panel& panel, int from, Ints (&sum)[ROWS][VECTORS]) {
    if (job.requantize.mode == RoundingMode::ONCE_SATURATING) {
      finish_tile<RoundingMode::ONCE_SATURATING, Order>(job, panel, from, sum);
      return;
    }
    finish_twice<RoundingMode::TWICE_NON_NEGATIVE, Order>(job, panel, from, sum);
  }
};

// What a tile's sums begin with.
template <int ROWS, int VECTORS>
inline void start_sums(const Matmul<std::uint8_t>& job, const Panel& panel, int from, Ints (&sum)[ROWS][VECTORS]) {
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Ints start = load_ints(job.bias + panel.channel + j * LANES);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = start;
  }
  if (job.input_sums) {
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      const Ints more = splat_ints(job.input_sums[from + i]);
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = add_ints(sum[i][j], more);
    }
  }
}

// The tile of ROWS pixels x VECTORS vectors at pixel `from`. AHEAD: a line of `ahead` is fetched with each step. FINISH
// stores its sums.
template <int ROWS, int VECTORS, bool AHEAD, class FINISH>
MNV2_NOINLINE void tile(const Matmul<std::uint8_t>& job, const Panel& panel, int from, const std::int8_t* ahead) {
  Ints sum[ROWS][VECTORS];
  start_sums(job, panel, from, sum);
  Sums sums[ROWS][VECTORS];
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sums[i][j] = to_sums(sum[i][j]);
  }
  const std::ptrdiff_t pixel = job.in_pixel;
  const std::int8_t* weights = job.weights + panel.weights;
  const std::uint8_t* const tile_in = job.in + from * pixel;
  const std::ptrdiff_t segment_weights = static_cast<std::ptrdiff_t>(job.depth) * (VECTORS * LANES);
  for (int r = 0; r < job.row_count; r++) {
    const std::uint8_t* segment = tile_in + r * job.in_row;
    for (int s = 0; s < job.segment_count; s++, segment += job.in_segment) {
      const std::uint8_t* in = segment;
      const std::int8_t* const end = weights + segment_weights;
      if constexpr (INPUT_STEPS > 1) {
        constexpr int STEP_WEIGHTS = 4 * INPUT_STEPS * VECTORS * LANES;
        const std::int8_t* const whole =
            weights + static_cast<std::ptrdiff_t>(job.depth / (4 * INPUT_STEPS)) * STEP_WEIGHTS;
        for (; weights != whole; weights += STEP_WEIGHTS, in += 4 * INPUT_STEPS) {
          if constexpr (AHEAD) {
            MNV2_UNROLL for (int k = 0; k < INPUT_STEPS; k++, ahead += 64) prefetch(ahead);
          }
          InputSteps inputs[ROWS];
          MNV2_UNROLL for (int i = 0; i < ROWS; i++) inputs[i] = load_input_steps(in + i * pixel);
          add_input_steps<0>(inputs, weights, sums);
        }
      }
      for (; weights != end; weights += 4 * VECTORS * LANES, in += 4) {
        if constexpr (AHEAD) {
          prefetch(ahead);
          ahead += 64;
        }
        Ints w[VECTORS];
        MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_weights(weights + 4 * j * LANES);
        MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
          const InputSteps input = load_input_step(in + i * pixel);
          MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sums[i][j] = dot_step<0>(sums[i][j], input, w[j]);
        }
      }
    }
  }
  // Else GCC may keep a sum on the stack, within the loop too, for the case that all are stored there.
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = in_register(from_sums(sums[i][j]));
  }
  FINISH::finish(job, panel, from, sum);
}

#if defined(MNV2_HALVES)

// A tile whose last vector is half of one.
template <int ROWS, int VECTORS, bool AHEAD, class FINISH>
MNV2_NOINLINE void half_tile(const Matmul<std::uint8_t>& job, const Panel& panel, int from, const std::int8_t* ahead) {
  constexpr int WHOLE = VECTORS - 1, STEP_WEIGHTS = 4 * WHOLE * LANES + 2 * LANES;
  Ints sum[ROWS][VECTORS];
  HalfInts halves[ROWS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Ints start = load_ints(job.bias + panel.channel + j * LANES);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = start;
  }
  if (job.input_sums) {
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      const Ints more = splat_ints(job.input_sums[from + i]);
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = add_ints(sum[i][j], more);
    }
  }
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) halves[i] = first_half(sum[i][WHOLE]);
  const std::ptrdiff_t pixel = job.in_pixel;
  const std::int8_t* weights = job.weights + panel.weights;
  const std::uint8_t* const tile_in = job.in + from * pixel;
  for (int r = 0; r < job.row_count; r++) {
    const std::uint8_t* segment = tile_in + r * job.in_row;
    for (int s = 0; s < job.segment_count; s++, segment += job.in_segment) {
      const std::uint8_t* in = segment;
      const std::int8_t* const end = weights + static_cast<std::ptrdiff_t>(job.depth / 4) * STEP_WEIGHTS;
      for (; weights != end; weights += STEP_WEIGHTS, in += 4) {
        if constexpr (AHEAD) {
          prefetch(ahead);
          ahead += 64;
        }
        Ints w[VECTORS];
        MNV2_UNROLL for (int j = 0; j < WHOLE; j++) w[j] = load_weights(weights + 4 * j * LANES);
        const HalfInts last = load_half_weights(weights + 4 * WHOLE * LANES);
        MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
          const Ints input = splat_quad(in + i * pixel);
          MNV2_UNROLL for (int j = 0; j < WHOLE; j++) sum[i][j] = dot(sum[i][j], input, w[j]);
          halves[i] = half_dot(halves[i], first_half(input), last);
        }
      }
    }
  }
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][WHOLE] = whole_of(halves[i]);
  FINISH::finish(job, panel, from, sum);
}

// Panels that end with half a vector.
template <class Order>
struct WithHalf : AnyMode<Order> {
  static constexpr bool HALF = true;
};

#endif

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
