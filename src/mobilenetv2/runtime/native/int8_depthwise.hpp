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
};

// Turns the sums of four vectors into what is stored, but for clamping in the modes that leave it to the packing.
// FACTORS says how the factors of a vector lie, NEXT how many channels lie between a vector's and the next's; the first
// vector's begin with `channel`.
template <RoundingMode MODE, class FACTORS, int NEXT>
inline void byte_codes(const Depthwise<std::uint8_t>& job, int channel, Ints (&sum)[4]) {
  constexpr bool TWICE = MODE == RoundingMode::TWICE || MODE == RoundingMode::TWICE_NON_NEGATIVE;
  const Requantize& to = job.requantize;
  if constexpr (TWICE) {
    Vec worst = zero();
    Ints near[4];
    MNV2_UNROLL for (int q = 0; q < 4; q++) {
      const NearCodes<MODE, FACTORS> codes(to, channel + NEXT * q);
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
    const auto read = [&](int row, Ints(&quads)[QUADS]) {
      columns.read(job.rows[row] ? job.rows[row] + at : nullptr, outside, together, quads);
    };
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
            read(y * STRIDE + i * job.dilation, rows[(phase * STRIDE + i) % 3]);
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
  if (job.requantize.zero == 0 && mode == RoundingMode::ONCE_SATURATING) {
    CHANNELS::template run<RoundingMode::ONCE_SATURATING>(job, block);
  } else if (is_once(mode)) {
    CHANNELS::template run<RoundingMode::ONCE>(job, block);
  } else if (mode == RoundingMode::TWICE_NON_NEGATIVE) {
    CHANNELS::template run<RoundingMode::TWICE_NON_NEGATIVE>(job, block);
  } else {
    CHANNELS::template run<RoundingMode::TWICE>(job, block);
  }
}

template <int STRIDE>
inline void byte_channels_of(const Depthwise<std::uint8_t>& job, int block) {
  if (job.copies == 2) {
    run_in_mode<ByteChannels<STRIDE, 2>>(job, block);
  } else {
    run_in_mode<ByteChannels<STRIDE, 1>>(job, block);
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
    if (job.stride == 1 && job.copies <= 2) {
      byte_channels_of<1>(job, block);
    } else if (job.stride == 2 && job.copies <= 2) {
      byte_channels_of<2>(job, block);
    } else {
      plain_byte_channels(job, block);
    }
#else
    plain_byte_channels(job, block);
#endif
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
