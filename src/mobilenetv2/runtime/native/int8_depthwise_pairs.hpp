// The 3x3 depthwise convolution over bytes for targets that multiply 16 bits, two rows at a time (MNV2_PAIRS), without
// dilation. Two input rows side by side, widened, are a row of pairs; an output row is the products of two rows of
// pairs with the taps, of which one row is zero.
#pragma once

#include "int8_depthwise.hpp"
#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int PAIR_OUTPUTS = 4;  // at once
constexpr int PAIR_STRIP = 56;   // outputs of a row of pairs
constexpr int PAIR_COLUMNS = 2 * PAIR_STRIP + 1;
constexpr int BLOCK_QUADS = BLOCK / 4;

// A row of pairs: of each quad of channels, the columns.
using PairRow = Ints[BLOCK_QUADS][PAIR_COLUMNS];

// The taps of a block as pairs: of each quad, those of the upper row of pairs by column, then those of the lower.
struct PairTaps {
  Ints taps[BLOCK_QUADS][6];
};

// Of rows FIRST, FIRST + 1 and so on of the taps, -1 and 3 being zeros.
template <int FIRST>
inline void pair_taps(const Depthwise<std::uint8_t>& job, int block, PairTaps& to) {
  const std::int8_t* const weights = job.weights + block * job.weight_block;
  MNV2_UNROLL for (int q = 0; q < BLOCK_QUADS; q++) {
    MNV2_UNROLL for (int i = 0; i < 6; i++) to.taps[q][i] = splat_ints(0);
    for (int copy = 0; copy < job.copies; copy++) {
      const auto row = [&](int i) {
        return i < 0 || i > 2 ? splat_ints(0) : load_weights(weights + ((3 * copy + i) * BLOCK + 4 * q) * 4);
      };
      MNV2_UNROLL for (int pair = 0; pair < 2; pair++) {
        Ints columns[3];
        column_pairs(row(FIRST + 2 * pair), row(FIRST + 2 * pair + 1), columns);
        MNV2_UNROLL for (int j = 0; j < 3; j++) {
          to.taps[q][3 * pair + j] = add_words(to.taps[q][3 * pair + j], columns[j]);
        }
      }
    }
  }
}

// Pairs of rows `upper` and `lower` of a block, null where they lie outside, for `count` columns from `first` on.
inline void fill_pairs(const Depthwise<std::uint8_t>& job, const std::uint8_t* upper, const std::uint8_t* lower,
                       int first, int count, PairRow& to) {
  const Ints outside = splat_byte(job.zero);
  for (int i = 0; i < count; i++) {
    const int column = first + i;
    const bool inside = column >= 0 && column < job.in_width;
    const Ints a = upper && inside ? load_bytes(upper + column * BLOCK) : outside;
    const Ints b = lower && inside ? load_bytes(lower + column * BLOCK) : outside;
    Ints quads[BLOCK_QUADS];
    row_pairs(a, b, quads);
    MNV2_UNROLL for (int q = 0; q < BLOCK_QUADS; q++) to[q][i] = quads[q];
  }
}

// `count` outputs of a quad of channels from `channel` on.
template <int STRIDE, RoundingMode MODE>
MNV2_NOINLINE void pair_outputs(const Depthwise<std::uint8_t>& job, int channel, const Ints* upper, const Ints* lower,
                                const Ints (&taps)[6], int count, std::uint8_t* out) {
  const Ints bias = load_ints(job.bias + channel);
  for (int x = 0; x < count; x += PAIR_OUTPUTS, out += PAIR_OUTPUTS * BLOCK) {
    Ints sum[PAIR_OUTPUTS];
    MNV2_UNROLL for (int i = 0; i < PAIR_OUTPUTS; i++) sum[i] = bias;
    MNV2_UNROLL for (int c = 0; c < (PAIR_OUTPUTS - 1) * STRIDE + 3; c++) {
      const Ints above = upper[x * STRIDE + c], below = lower[x * STRIDE + c];
      MNV2_UNROLL for (int i = 0; i < PAIR_OUTPUTS; i++) {
        const int tap = c - i * STRIDE;
        if (tap >= 0 && tap < 3) {
          sum[i] = add_ints(add_ints(sum[i], dot_pairs(above, taps[tap])), dot_pairs(below, taps[3 + tap]));
        }
      }
    }
    byte_codes<MODE, PerLane, 0>(job, channel, sum);
    store_quads(out, sum, count - x);
  }
}

template <int STRIDE, RoundingMode MODE>
MNV2_NOINLINE void pair_channels(const Depthwise<std::uint8_t>& job, int block) {
  PairTaps even, odd;  // for output rows whose first row is the upper of its row of pairs, or the lower
  pair_taps<0>(job, block, even);
  if (STRIDE == 1) pair_taps<-1>(job, block, odd);
  const int rows = (job.out_rows - 1) * STRIDE + 3;
  const auto row = [&](int i) { return i < rows && job.rows[i] ? job.rows[i] + block * job.in_block : nullptr; };
  PairRow pairs[2];
  for (int x = 0; x < job.out_width; x += PAIR_STRIP) {
    const int count = job.out_width - x < PAIR_STRIP ? job.out_width - x : PAIR_STRIP;
    const int first = x * STRIDE - job.left, columns = (count - 1) * STRIDE + 3;
    std::uint8_t* out = job.out + block * job.out_block + x * BLOCK;
    fill_pairs(job, row(0), row(1), first, columns, pairs[0]);
    for (int i = 0, y = 0; y < job.out_rows; i++) {
      const PairRow& upper = pairs[i % 2];
      PairRow& lower = pairs[(i + 1) % 2];
      fill_pairs(job, row(2 * i + 2), row(2 * i + 3), first, columns, lower);
      for (int k = 0; k < 3 - STRIDE && y < job.out_rows; k++, y++) {
        const PairTaps& taps = k ? odd : even;
        for (int q = 0; q < BLOCK_QUADS; q++) {
          pair_outputs<STRIDE, MODE>(job, block * BLOCK + 4 * q, upper[q], lower[q], taps.taps[q], count, out + 4 * q);
        }
        out += static_cast<std::ptrdiff_t>(job.out_width) * BLOCK;
      }
    }
  }
}

template <int STRIDE>
struct PairChannels {
  template <RoundingMode MODE>
  static void run(const Depthwise<std::uint8_t>& job, int block) {
    pair_channels<STRIDE, MODE>(job, block);
  }
};

void depthwise_of_pairs(const Depthwise<std::uint8_t>& job) {
  if (job.stride > 2 || job.dilation > 1) return depthwise(job);
  for (int block = 0; block < job.blocks; block++) {
    if (job.stride == 1) {
      run_in_mode<PairChannels<1>>(job, block);
    } else {
      run_in_mode<PairChannels<2>>(job, block);
    }
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
