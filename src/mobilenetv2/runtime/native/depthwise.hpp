// The 3x3 depthwise convolution, for the target that MNV2_NAMESPACE names. Rows and columns outside the picture are
// read at a place inside it with a weight of zero, so that every output is the same sum in the same order.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

struct Taps {
  Vec weight[9];
  Vec bias, low, high;
};

template <bool WHOLE>
inline Vec read(const float* from, int count) {
  return WHOLE ? load(from) : load_some(from, count);
}

// One output: `at[i]` points to the first column of row i, columns are `step` floats apart.
template <bool WHOLE>
inline Vec output(const Taps& taps, const float* const at[3], std::ptrdiff_t step, int count) {
  Vec sum[3] = {taps.bias, zero(), zero()};
  MNV2_UNROLL for (int i = 0; i < 3; i++) {
    MNV2_UNROLL for (int j = 0; j < 3; j++) {
      sum[i] = fma(taps.weight[3 * i + j], read<WHOLE>(at[i] + j * step, count), sum[i]);
    }
  }
  return lowest(highest(add(sum[0], add(sum[1], sum[2])), taps.low), taps.high);
}

// An output near the left or right border: columns outside count with weight zero.
template <bool WHOLE>
inline Vec border_output(const Depthwise& job, const Taps& taps, const float* const rows[3], int column, int count) {
  Vec sum[3] = {taps.bias, zero(), zero()};
  for (int j = 0; j < 3; j++) {
    const int x = column + j * job.dilation;
    const bool inside = x >= 0 && x < job.in_width;
    for (int i = 0; i < 3; i++) {
      const float* from = rows[i] + (inside ? x * job.in_pixel : 0);
      sum[i] = fma(inside ? taps.weight[3 * i + j] : zero(), read<WHOLE>(from, count), sum[i]);
    }
  }
  return lowest(highest(add(sum[0], add(sum[1], sum[2])), taps.low), taps.high);
}

template <bool WHOLE>
inline void write(float* to, Vec value, int count) {
  if (WHOLE) {
    store(to, value);
  } else {
    store_some(to, value, count);
  }
}

// One output row of up to LANES channels from `channel` on.
template <bool WHOLE>
MNV2_NOINLINE void depthwise_row(const Depthwise& job, int row, int channel, int count) {
  const float* rows[3];
  const float* present = nullptr;
  Taps taps;
  taps.bias = read<WHOLE>(job.bias + channel, count);
  taps.low = splat(job.low);
  taps.high = splat(job.high);
  for (int i = 0; i < 3; i++) {
    rows[i] = job.rows[row * job.stride + i * job.dilation];
    if (rows[i]) present = rows[i];
  }
  for (int i = 0; i < 3; i++) {
    for (int j = 0; j < 3; j++) {
      const float* weight = job.weights + (3 * i + j) * job.weight_row + channel;
      taps.weight[3 * i + j] = rows[i] ? read<WHOLE>(weight, count) : zero();
    }
    rows[i] = (rows[i] ? rows[i] : present) + channel;
  }
  float* out = job.out + static_cast<std::ptrdiff_t>(row) * job.out_width * job.out_pixel + channel;
  const int reach = 2 * job.dilation;
  const int inner = (job.left + job.stride - 1) / job.stride;  // first output that reads no column left of the picture
  const int room = job.in_width - 1 - reach + job.left;
  const int outer = room < 0 ? 0 : room / job.stride + 1;  // first that reads one right of it
  int x = 0;
  for (; x < job.out_width && (x < inner || x >= outer); x++) {
    const Vec value = border_output<WHOLE>(job, taps, rows, x * job.stride - job.left, count);
    write<WHOLE>(out + x * job.out_pixel, value, count);
  }
  const std::ptrdiff_t step = job.dilation * job.in_pixel, advance = job.stride * job.in_pixel;
  const std::ptrdiff_t start = (static_cast<std::ptrdiff_t>(x) * job.stride - job.left) * job.in_pixel;
  if (x < job.out_width) {
    const float* at[3] = {rows[0] + start, rows[1] + start, rows[2] + start};
    for (; x < job.out_width && x < outer; x++) {
      write<WHOLE>(out + x * job.out_pixel, output<WHOLE>(taps, at, step, count), count);
      for (const float*& place : at) place += advance;
    }
  }
  for (; x < job.out_width; x++) {
    const Vec value = border_output<WHOLE>(job, taps, rows, x * job.stride - job.left, count);
    write<WHOLE>(out + x * job.out_pixel, value, count);
  }
}

void depthwise(const Depthwise& job) {
  for (int channel = 0; channel < job.channels; channel += LANES) {
    const int count = job.channels - channel;
    for (int row = 0; row < job.out_rows; row++) {
      if (count >= LANES) {
        depthwise_row<true>(job, row, channel, LANES);
      } else {
        depthwise_row<false>(job, row, channel, count);
      }
    }
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
