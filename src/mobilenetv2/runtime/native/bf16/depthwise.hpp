// The 3x3 depthwise convolution over bfloat16, for the target that MNV2_NAMESPACE names. Each row of three taps is two
// pairs, one of them half empty: two products instead of three. Every output is the same sum in the same order; taps
// outside the image count as zeros.
#pragma once

#include "../kernels.hpp"
#include "pairs.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int OUTPUTS = 4;  // side by side

// The taps of LANES channels, a row of the kernel each. An output whose first column begins a pair of columns uses
// `even`: columns 0 and 1, column 2 and nothing. One whose first column ends a pair uses `odd`: nothing and column 0,
// columns 1 and 2.
struct PairTaps {
  Pairs even[3][2], odd[3][2];
  Vec bias;
  Limits limits;
};

// ROWS output rows of LANES channels, one below the other, and the rows that they read, at column 0. A row outside the
// image is any other, with an empty mask.
template <int ROWS, int STRIDE>
struct PairRows {
  static constexpr int IN = (ROWS - 1) * STRIDE + 3;
  const bfloat16* in[IN];
  PairMask inside[IN];
  bool all_inside;
  bfloat16* out;
};

// The columns of COUNT outputs side by side.
template <int COUNT, int STRIDE>
constexpr int COLUMNS = (COUNT - 1) * STRIDE + 3;

// COUNT outputs side by side from x on, of all rows. Where EDGE, rows and columns may lie outside the image.
template <int COUNT, int ROWS, int STRIDE, bool EDGE>
inline void pair_outputs(const Depthwise<bfloat16>& job, const PairTaps& taps, const PairRows<ROWS, STRIDE>& rows,
                         int x) {
  const int first = x * STRIDE - job.left;
  PairMask inside[COLUMNS<COUNT, STRIDE> / 2 + 1];
  MNV2_UNROLL for (int c = 0; c < COLUMNS<COUNT, STRIDE>; c += 2) {
    const int column = first + c;
    inside[c / 2] = pair_mask_if(column >= 0 && column < job.in_width, column + 1 >= 0 && column + 1 < job.in_width);
  }
  Vec sum[ROWS][COUNT];
  MNV2_UNROLL for (int r = 0; r < ROWS; r++) { MNV2_UNROLL for (int o = 0; o < COUNT; o++) sum[r][o] = taps.bias; }
  MNV2_UNROLL for (int i = 0; i < PairRows<ROWS, STRIDE>::IN; i++) {
    MNV2_UNROLL for (int c = 0; c < COLUMNS<COUNT, STRIDE>; c += 2) {
      const bfloat16* const from = rows.in[i] + static_cast<std::ptrdiff_t>(first + c) * BLOCK;
      const Pairs columns = EDGE ? join_pixels_if(rows.inside[i] & inside[c / 2], from) : join_pixels(from);
      MNV2_UNROLL for (int r = 0; r < ROWS; r++) {
        const int row = i - r * STRIDE;
        MNV2_UNROLL for (int o = 0; o < COUNT; o++) {
          const int tap = c - o * STRIDE;  // of the pair's first column
          if (row < 0 || row > 2) continue;
          if (tap == 0 || tap == 2) sum[r][o] = dot(sum[r][o], columns, taps.even[row][tap / 2]);
          if (tap == -1 || tap == 1) sum[r][o] = dot(sum[r][o], columns, taps.odd[row][(tap + 1) / 2]);
        }
      }
    }
  }
  MNV2_UNROLL for (int r = 0; r < ROWS; r++) {
    bfloat16* const out = rows.out + (static_cast<std::ptrdiff_t>(r) * job.out_width + x) * BLOCK;
    MNV2_UNROLL for (int o = 0; o + 1 < COUNT; o += 2) {
      store_two(out + o * BLOCK, sum[r][o], sum[r][o + 1], taps.limits);
    }
    if (COUNT % 2) store_one(out + (COUNT - 1) * BLOCK, sum[r][COUNT - 1], taps.limits);
  }
}

// ROWS output rows from y on. STRIDE 1 or 2, without dilation.
template <int ROWS, int STRIDE>
inline void pair_rows(const Depthwise<bfloat16>& job, const PairTaps& taps, int y, std::ptrdiff_t offset,
                      bfloat16* out) {
  PairRows<ROWS, STRIDE> rows;
  const bfloat16* const* const in = job.rows + y * STRIDE;
  const bfloat16* present = nullptr;
  for (int i = 0; i < PairRows<ROWS, STRIDE>::IN; i++) present = in[i] ? in[i] : present;
  rows.all_inside = true;
  MNV2_UNROLL for (int i = 0; i < PairRows<ROWS, STRIDE>::IN; i++) {
    rows.in[i] = (in[i] ? in[i] : present) + offset;
    rows.inside[i] = pair_mask_if(in[i], in[i]);
    rows.all_inside = rows.all_inside && in[i];
  }
  rows.out = out;
  constexpr int READ = (COLUMNS<OUTPUTS, STRIDE> + 1) / 2 * 2;
  int x = 0;
  for (; x + OUTPUTS <= job.out_width; x += OUTPUTS) {
    const int first = x * STRIDE - job.left;
    if (rows.all_inside && first >= 0 && first + READ <= job.in_width) {
      pair_outputs<OUTPUTS, ROWS, STRIDE, false>(job, taps, rows, x);
    } else {
      pair_outputs<OUTPUTS, ROWS, STRIDE, true>(job, taps, rows, x);
    }
  }
  switch (job.out_width - x) {
    case 3:
      return pair_outputs<3, ROWS, STRIDE, true>(job, taps, rows, x);
    case 2:
      return pair_outputs<2, ROWS, STRIDE, true>(job, taps, rows, x);
    case 1:
      return pair_outputs<1, ROWS, STRIDE, true>(job, taps, rows, x);
    default:
      return;
  }
}

// Output x of row y, of any stride and dilation.
inline void pair_output(const Depthwise<bfloat16>& job, const PairTaps& taps, int y, int x, std::ptrdiff_t offset,
                        bfloat16* out) {
  Vec sum = taps.bias;
  MNV2_UNROLL for (int i = 0; i < 3; i++) {
    const bfloat16* const row = job.rows[y * job.stride + i * job.dilation];
    const auto read = [&](int j) {
      const int column = x * job.stride - job.left + j * job.dilation;
      const bool inside = row && column >= 0 && column < job.in_width;
      return inside ? load(row + offset + static_cast<std::ptrdiff_t>(column) * BLOCK) : zero();
    };
    sum = dot(sum, join(read(0), read(1)), taps.even[i][0]);
    sum = dot(sum, join(read(2), zero()), taps.even[i][1]);
  }
  store_one(out, sum, taps.limits);
}

// All rows of LANES channels, which begin at `lane` of a block. STRIDE 0 is any stride and dilation.
template <int STRIDE>
MNV2_NOINLINE void pair_channels(const Depthwise<bfloat16>& job, int block, int lane) {
  const std::ptrdiff_t offset = block * job.in_block + lane;
  const float* const weights = job.weights + block * BLOCK + lane;
  PairTaps taps;
  MNV2_UNROLL for (int i = 0; i < 3; i++) {
    const auto tap = [&](int j) { return load(weights + (3 * i + j) * job.weight_row); };
    taps.even[i][0] = join(tap(0), tap(1));
    taps.even[i][1] = join(tap(2), zero());
    taps.odd[i][0] = join(zero(), tap(0));
    taps.odd[i][1] = join(tap(1), tap(2));
  }
  taps.bias = load(job.bias + block * BLOCK + lane);
  taps.limits = make_limits(job.low, job.high);
  const std::ptrdiff_t out_row = static_cast<std::ptrdiff_t>(job.out_width) * BLOCK;
  bfloat16* out = job.out + block * job.out_block + lane;
  int y = 0;
  if constexpr (STRIDE > 0) {
    for (; y + 2 <= job.out_rows; y += 2, out += 2 * out_row) pair_rows<2, STRIDE>(job, taps, y, offset, out);
    if (y < job.out_rows) pair_rows<1, STRIDE>(job, taps, y, offset, out);
  } else {
    for (; y < job.out_rows; y++, out += out_row) {
      for (int x = 0; x < job.out_width; x++) pair_output(job, taps, y, x, offset, out + x * BLOCK);
    }
  }
}

void depthwise(const Depthwise<bfloat16>& job) {
  for (int block = 0; block < job.blocks; block++) {
    for (int lane = 0; lane < BLOCK; lane += LANES) {
      if (job.dilation == 1 && job.stride == 1) {
        pair_channels<1>(job, block, lane);
      } else if (job.dilation == 1 && job.stride == 2) {
        pair_channels<2>(job, block, lane);
      } else {
        pair_channels<0>(job, block, lane);
      }
    }
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
