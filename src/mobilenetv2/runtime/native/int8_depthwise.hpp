// The 3x3 depthwise convolution over bytes, for the target that MNV2_NAMESPACE names. The three rows of a column are
// interleaved with zeros, so that one dot product per column is three taps of a channel; a vector holds 4 channels of
// some pixels, and packing the four vectors of a block brings its channels back in order.
#pragma once

#include "kernels.hpp"
#include "requantize.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr std::ptrdiff_t ROW_WEIGHTS = 4 * BLOCK;

#if defined(MNV2_PIXEL_VECTORS)

// Factors of four channels, repeated for all pixels of a vector.
struct PerQuad {
  static Vec floats(const float* from) { return load_quad(from); }
  static Wide doubles(const double* from) { return load_quad(from); }
};

// The columns that PIXELS outputs side by side read: where they lie, and which of them lie inside the image.
template <int STRIDE>
struct Columns {
  std::ptrdiff_t at[3];
  PixelMask inside[3][STRIDE];

  Columns(const Depthwise<std::uint8_t>& job, int x) {
    for (int j = 0; j < 3; j++) {
      const int column = x * STRIDE - job.left + j * job.dilation;
      at[j] = static_cast<std::ptrdiff_t>(column) * BLOCK;
      for (int part = 0; part < STRIDE; part++) {
        const int first = column + part * PIXELS, room = job.in_width - first;
        inside[j][part] = pixel_mask(first < 0 ? -first : 0, room < PIXELS ? room : PIXELS);
      }
    }
  }

  // Interleaves a row from its block on; null if it lies outside.
  void read(const std::uint8_t* row, Ints outside, bool together, Ints (&quads)[QUADS]) const {
    Ints column[3] = {outside, outside, outside};
    if (row) {
      const auto load = [&](int j, int part) {
        return load_pixels(row + at[j] + part * PIXELS * BLOCK, inside[j][part], outside);
      };
      if constexpr (STRIDE == 1) {
        MNV2_UNROLL for (int j = 0; j < 3; j++) column[j] = load(j, 0);
      } else {
        const Ints a = load(0, 0), b = load(0, 1);
        column[0] = even_pixels(a, b);
        column[1] = together ? odd_pixels(a, b) : even_pixels(load(1, 0), load(1, 1));
        column[2] = even_pixels(load(2, 0), load(2, 1));
      }
    }
    interleave(column, quads);
  }
  // The same where columns do not touch.
  MNV2_INLINE_FOR_SPEED void read_apart(const std::uint8_t* row, Ints outside, Ints (&quads)[QUADS]) const {
    read(row, outside, false, quads);
  }
};

// Turns the sums of four vectors into what is stored, but for clamping in the modes that leave it to the packing.
// FACTORS says how the factors of a vector lie, NEXT how many channels lie between a vector's and the next's; the first
// vector's begin with `channel`.
template <RoundingMode MODE, class FACTORS, int NEXT>
MNV2_INLINE_FOR_SPEED void byte_codes(const Depthwise<std::uint8_t>& job, int channel, Ints (&sum)[4]) {
  constexpr bool TWICE = MODE == RoundingMode::TWICE || MODE == RoundingMode::TWICE_NON_NEGATIVE;
  const Requantize& to = job.requantize;
  if constexpr (TWICE) {
    Vec worst = zero();
    Ints near[4];
    MNV2_UNROLL for (int q = 0; q < 4; q++) {
      const int first = channel + NEXT * q;
      const NearCodes<MODE> codes{FACTORS::floats(to.factor + first), FACTORS::floats(to.half + first)};
      Vec value = codes(sum[q], worst);
      if constexpr (MODE == RoundingMode::TWICE) value = clamped(value, splat(job.low), splat(job.high));
      near[q] = to_ints(value);
      if constexpr (MODE == RoundingMode::TWICE) near[q] = add_ints(near[q], splat_ints(to.zero));
    }
    if (!near_halves(to, worst)) {
      MNV2_UNROLL for (int q = 0; q < 4; q++) sum[q] = near[q];
      return;
    }
  }
  MNV2_UNROLL for (int q = 0; q < 4; q++) {
    const Codes<MODE, FACTORS> codes(to, channel + NEXT * q, job.low, job.high);
    sum[q] = codes(sum[q]);
    if constexpr (MODE == RoundingMode::ONCE || MODE == RoundingMode::TWICE) {
      sum[q] = add_ints(sum[q], splat_ints(to.zero));
    }
  }
}

// One block of channels. ONCE_SATURATING leaves clamping to the packing, here only with a zero point of 0.
template <int STRIDE, int COPIES, RoundingMode MODE>
MNV2_NOINLINE void byte_channels(const Depthwise<std::uint8_t>& job, int block) {
  const Ints outside = splat_byte(job.zero);
  const bool together = job.dilation == 1;  // columns and rows touch
  const std::ptrdiff_t at = block * job.in_block;
  Ints weights[COPIES][3][QUADS];
  MNV2_UNROLL for (int copy = 0; copy < COPIES; copy++) {
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      MNV2_UNROLL for (int q = 0; q < QUADS; q++) {
        const std::int8_t* const from = job.weights + block * job.weight_block + (3 * copy + i) * ROW_WEIGHTS + 16 * q;
        weights[copy][i][q] = load_quad(static_cast<const void*>(from));
      }
    }
  }
  for (int x = 0; x < job.out_width; x += PIXELS) {
    const Columns<STRIDE> columns(job, x);
    const auto begin_of = [&](int row) { return job.rows[row] ? job.rows[row] + at : nullptr; };
    const auto read = [&](int row, Ints(&quads)[QUADS]) { columns.read(begin_of(row), outside, true, quads); };
    std::uint8_t* out = job.out + block * job.out_block + x * BLOCK;
    // Input row r of the job is in rows[r % 3]; three output rows at a time, so that the compiler knows which.
    Ints rows[3][QUADS];
    if (together) {
      MNV2_UNROLL for (int i = 0; i < 3 - STRIDE; i++) read(i, rows[i]);
    }
    for (int begin = 0; begin < job.out_rows; begin += 3) {
      MNV2_UNROLL for (int phase = 0; phase < 3; phase++) {
        const int y = begin + phase;
        if (y >= job.out_rows) break;
        if (together) {
          MNV2_UNROLL for (int i = 3 - STRIDE; i < 3; i++) read(y * STRIDE + i, rows[(phase * STRIDE + i) % 3]);
        } else {
          MNV2_UNROLL for (int i = 0; i < 3; i++) {
            columns.read_apart(begin_of(y * STRIDE + i * job.dilation), outside, rows[(phase * STRIDE + i) % 3]);
          }
        }
        Ints sum[QUADS];
        MNV2_UNROLL for (int q = 0; q < QUADS; q++) {
          const int channel = block * BLOCK + 4 * q;
          Sums sums = to_sums(load_quad(static_cast<const void*>(job.bias + channel)));
          MNV2_UNROLL for (int copy = 0; copy < COPIES; copy++) {
            MNV2_UNROLL for (int i = 0; i < 3; i++) {
              sums = dot(sums, rows[(phase * STRIDE + i) % 3][q], weights[copy][i][q]);
            }
          }
          sum[q] = from_sums(sums);
        }
        byte_codes<MODE, PerQuad, 4>(job, block * BLOCK, sum);
        store_pixels(out + static_cast<std::ptrdiff_t>(y) * job.out_width * BLOCK, sum, job.out_width - x);
      }
    }
  }
}

#if defined(MNV2_FOURS)

// Groups of four pixels of a row in fours; a row outside of the image, and what lies beside it, is a value of its own.
struct FourRow {
  const std::uint8_t* from;
  std::ptrdiff_t step;
};

// ROWS output rows from row `y` on of one block of channels, whose rows are in fours. LEFT: columns of padding.
template <int STRIDE, int LEFT, int COPIES, int ROWS, RoundingMode MODE>
MNV2_NOINLINE void four_channels(const Depthwise<std::uint8_t>& job, int block, int y) {
  constexpr int READ = (ROWS - 1) * STRIDE + 3;
  constexpr int KINDS = STRIDE == 1 ? 2 : 1;  // of taps: from the first pixel of a group on, or from the second
  const Ints outside = splat_byte(job.zero);
  alignas(64) std::uint8_t beside[4 * LANES];
  store_ints(reinterpret_cast<std::int32_t*>(beside), outside);
  FourRow rows[READ];
  MNV2_UNROLL for (int r = 0; r < READ; r++) {
    const std::uint8_t* const row = job.rows[y * STRIDE + r];
    rows[r] = row ? FourRow{row + block * job.in_block, FOUR * BLOCK} : FourRow{beside, 0};
  }
  Ints weights[COPIES][3][KINDS];
  MNV2_UNROLL for (int copy = 0; copy < COPIES; copy++) {
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      const Ints taps = load_weights(job.weights + block * job.weight_block + (3 * copy + i) * ROW_WEIGHTS);
      weights[copy][i][0] = STRIDE == 2 && LEFT == 1 ? later_taps(taps) : taps;
      if constexpr (KINDS == 2) weights[copy][i][1] = later_taps(taps);
    }
  }
  const Ints bias = load_ints(job.bias + block * BLOCK);
  const int whole = job.in_width / FOUR;  // groups
  const FourMask last = four_mask(job.in_width % FOUR);
  int group = 0;  // the next to be read
  const auto read = [&](Ints(&pixels)[READ]) {
    if (group < whole) {
      MNV2_UNROLL for (int r = 0; r < READ; r++) pixels[r] = load_four(rows[r].from);
    } else {
      const FourMask inside = group == whole ? last : four_mask(0);
      MNV2_UNROLL for (int r = 0; r < READ; r++) pixels[r] = load_some_four(rows[r].from, inside, outside);
    }
    MNV2_UNROLL for (int r = 0; r < READ; r++) rows[r].from += rows[r].step;
    group++;
  };
  // Adds to the sums of one pixel of each row what `pixels` give.
  const auto add_taps = [&](Ints(&sum)[ROWS], const Ints(&pixels)[READ], int kind) {
    MNV2_UNROLL for (int copy = 0; copy < COPIES; copy++) {
      MNV2_UNROLL for (int i = 0; i < 3; i++) {
        MNV2_UNROLL for (int r = 0; r < ROWS; r++) {
          sum[r] = dot(sum[r], pixels[r * STRIDE + i], weights[copy][i][kind]);
        }
      }
    }
  };
  Ints here[READ], swapped[READ], between[READ];  // a group; its halves swapped; the pixels across two groups
  MNV2_UNROLL for (int r = 0; r < READ; r++) swapped[r] = outside;
  const auto step = [&](const Ints(&next)[READ]) {
    MNV2_UNROLL for (int r = 0; r < READ; r++) {
      const Ints other = halves_swapped(next[r]);
      between[r] = across(swapped[r], other);
      swapped[r] = other;
      here[r] = next[r];
    }
  };
  const bool ahead = !(STRIDE == 2 && LEFT == 1);  // reads a group before the pixels that it begins with are due
  Ints next[READ];
  if (ahead) {
    read(next);
    step(next);
  }
  std::uint8_t* out = job.out + block * job.out_block + static_cast<std::ptrdiff_t>(y) * job.out_width * BLOCK;
  for (int x = 0; x < job.out_width; x += FOUR, out += FOUR * BLOCK) {
    Ints sum[FOUR][ROWS];
    MNV2_UNROLL for (int p = 0; p < FOUR; p++) { MNV2_UNROLL for (int r = 0; r < ROWS; r++) sum[p][r] = bias; }
    if constexpr (STRIDE == 1) {
      add_taps(sum[0], between, 1);
      add_taps(sum[1], here, 0);
      add_taps(sum[2], here, 1);
      read(next);
      step(next);
      add_taps(sum[3], between, 0);
    } else {
      MNV2_UNROLL for (int half = 0; half < 2; half++) {
        if constexpr (LEFT == 0) add_taps(sum[2 * half], here, 0);
        read(next);
        step(next);
        add_taps(sum[2 * half + (LEFT == 0)], between, 0);
        if constexpr (LEFT == 1) add_taps(sum[2 * half + 1], here, 0);
      }
    }
    MNV2_UNROLL for (int r = 0; r < ROWS; r++) {
      Ints pixels[FOUR] = {sum[0][r], sum[1][r], sum[2][r], sum[3][r]};
      byte_codes<MODE, PerLane, 0>(job, block * BLOCK, pixels);
      store_four_pixels(out + static_cast<std::ptrdiff_t>(r) * job.out_width * BLOCK, pixels, job.out_width - x);
    }
  }
}

// All rows of one block of channels.
template <int STRIDE, int LEFT, int COPIES>
struct FourChannels {
  template <RoundingMode MODE>
  static void run(const Depthwise<std::uint8_t>& job, int block) {
    int y = 0;
    if constexpr (COPIES == 1) {
      for (; y + 2 <= job.out_rows; y += 2) four_channels<STRIDE, LEFT, 1, 2, MODE>(job, block, y);
    }
    for (; y < job.out_rows; y++) four_channels<STRIDE, LEFT, COPIES, 1, MODE>(job, block, y);
  }
};

#endif

template <int STRIDE, int COPIES>
struct ByteChannels {
  template <RoundingMode MODE>
  static void run(const Depthwise<std::uint8_t>& job, int block) {
    byte_channels<STRIDE, COPIES, MODE>(job, block);
  }
};

template <class CHANNELS>
inline void run_in_mode(const Depthwise<std::uint8_t>& job, int block) {
  const RoundingMode mode = job.requantize.mode;
  if (!IS_SMALL && job.requantize.zero == 0 && mode == RoundingMode::ONCE_SATURATING) {
    CHANNELS::template run<RoundingMode::ONCE_SATURATING>(job, block);
  } else if (is_once(mode)) {
    CHANNELS::template run<RoundingMode::ONCE>(job, block);
  } else if (mode == RoundingMode::TWICE_NON_NEGATIVE) {
    CHANNELS::template run<RoundingMode::TWICE_NON_NEGATIVE>(job, block);
  } else {
    CHANNELS::template run<RoundingMode::TWICE>(job, block);
  }
}

template <int COPIES>
inline void byte_channels_of(const Depthwise<std::uint8_t>& job, int block) {
#if defined(MNV2_FOURS)
  if (job.fours) {
    if (job.stride == 1) {
      run_in_mode<FourChannels<1, 1, COPIES>>(job, block);
    } else if (job.left == 1) {
      run_in_mode<FourChannels<2, 1, COPIES>>(job, block);
    } else {
      run_in_mode<FourChannels<2, 0, COPIES>>(job, block);
    }
    return;
  }
#endif
  if (job.stride == 1) {
    run_in_mode<ByteChannels<1, COPIES>>(job, block);
  } else {
    run_in_mode<ByteChannels<2, COPIES>>(job, block);
  }
}

#endif

// Any stride, one channel of one pixel after another.
void plain_byte_channels(const Depthwise<std::uint8_t>& job, int block) {
  const Requantize& to = job.requantize;
  std::uint8_t* out = job.out + block * job.out_block;
  for (int y = 0; y < job.out_rows; y++) {
    for (int x = 0; x < job.out_width; x++, out += BLOCK) {
      for (int c = 0; c < BLOCK; c++) {
        std::int32_t sum = job.bias[block * BLOCK + c];
        for (int i = 0; i < 3; i++) {
          const std::uint8_t* const row = job.rows[y * job.stride + i * job.dilation];
          for (int j = 0; j < 3; j++) {
            const int column = x * job.stride - job.left + j * job.dilation;
            const bool inside = row && column >= 0 && column < job.in_width;
            const int value = (inside ? row[block * job.in_block + column * BLOCK + c] : job.zero) - INPUT_OFFSET;
            for (int copy = 0; copy < job.copies; copy++) {
              sum += value * job.weights[block * job.weight_block + (3 * copy + i) * ROW_WEIGHTS + 4 * c + j];
            }
          }
        }
        const int channel = block * BLOCK + c;
        const bool once = is_once(to.mode);
        const float value = rescaled_sum(to.mode, sum, once ? to.factor[channel] : 0.0f,
                                         once ? 0.0 : to.fraction[channel], once ? 0.0 : to.power[channel]);
        out[c] = code_of(value, job.low, job.high, to.zero);
      }
    }
  }
}

void depthwise(const Depthwise<std::uint8_t>& job) {
  for (int block = 0; block < job.blocks; block++) {
#if defined(MNV2_PIXEL_VECTORS)
    if (job.stride > 2 || job.copies > 2) {
      plain_byte_channels(job, block);
    } else if (job.copies == 2) {
      byte_channels_of<2>(job, block);
    } else {
      byte_channels_of<1>(job, block);
    }
#else
    plain_byte_channels(job, block);
#endif
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
