// The 3x3 depthwise convolution, for the target that MNV2_NAMESPACE names. Every output is the same sum in the same
// order, bias first, then the taps row by row; taps outside the picture are left out or count with weight zero.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int OUTPUTS = 4;  // at once: with nine weights they fit sixteen registers

inline void finish(const Depthwise& job, float* to, Vec sum) {
  store(to, lowest(highest(sum, splat(job.low)), splat(job.high)));
}

// COUNT outputs side by side, none of which reads a column outside the picture; the first reads from `rows` on.
// With STRIDE 1 and 2 neighbours share the columns that they read; STRIDE 0 is any stride and dilation.
template <int COUNT, int STRIDE>
inline void inner_outputs(const Depthwise& job, const Vec (&weight)[9], Vec bias, const float* const (&rows)[3],
                          float* out) {
  Vec sum[COUNT];
  MNV2_UNROLL for (int o = 0; o < COUNT; o++) sum[o] = bias;
  MNV2_UNROLL for (int i = 0; i < 3; i++) {
    if constexpr (STRIDE > 0) {
      MNV2_UNROLL for (int column = 0; column < (COUNT - 1) * STRIDE + 3; column++) {
        const Vec value = load(rows[i] + column * BLOCK);
        MNV2_UNROLL for (int o = 0; o < COUNT; o++) {
          const int tap = column - o * STRIDE;
          if (tap >= 0 && tap < 3) sum[o] = fma(weight[3 * i + tap], value, sum[o]);
        }
      }
    } else {
      MNV2_UNROLL for (int j = 0; j < 3; j++) {
        MNV2_UNROLL for (int o = 0; o < COUNT; o++) {
          sum[o] = fma(weight[3 * i + j], load(rows[i] + (o * job.stride + j * job.dilation) * BLOCK), sum[o]);
        }
      }
    }
  }
  MNV2_UNROLL for (int o = 0; o < COUNT; o++) finish(job, out + o * BLOCK, sum[o]);
}

// Output x, which reads columns outside the picture; `offset` is that of its channels.
inline void border_output(const Depthwise& job, const float* const* rows, int x, std::ptrdiff_t offset,
                          const float* weights, Vec sum, float* out) {
  for (int i = 0; i < 3; i++) {
    const float* const row = rows[i * job.dilation];
    if (!row) continue;
    for (int j = 0; j < 3; j++) {
      const int column = x * job.stride - job.left + j * job.dilation;
      if (column < 0 || column >= job.in_width) continue;
      sum = fma(load(weights + (3 * i + j) * job.weight_row), load(row + offset + column * BLOCK), sum);
    }
  }
  finish(job, out + x * BLOCK, sum);
}

// All rows of LANES channels, which begin at `lane` of a block.
template <int STRIDE>
MNV2_NOINLINE void depthwise_channels(const Depthwise& job, int block, int lane) {
  const int room = job.in_width - 1 - 2 * job.dilation + job.left;
  const int outer = room < 0 ? 0 : room / job.stride + 1;  // first output that reads a column right of the picture
  const int inner = (job.left + job.stride - 1) / job.stride;  // first that reads none left of it
  const int end = outer < job.out_width ? outer : job.out_width;
  const int advance = job.stride * BLOCK;
  const std::ptrdiff_t offset = block * job.in_block + lane;
  const float* const weights = job.weights + block * BLOCK + lane;
  const Vec bias = load(job.bias + block * BLOCK + lane);
  for (int y = 0; y < job.out_rows; y++) {
    const float* const* const taps = job.rows + y * job.stride;
    const float* present = nullptr;  // stands for the rows outside the picture, whose weights are zero
    for (int i = 0; i < 3; i++) present = taps[i * job.dilation] ? taps[i * job.dilation] : present;
    const float* rows[3];
    Vec weight[9];
    float* const out = job.out + block * job.out_block + lane + static_cast<std::ptrdiff_t>(y) * job.out_width * BLOCK;
    int x = 0;
    for (; x < job.out_width && (x < inner || x >= outer); x++) {
      border_output(job, taps, x, offset, weights, bias, out);
    }
    const std::ptrdiff_t start = offset + static_cast<std::ptrdiff_t>(x) * advance - job.left * BLOCK;
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      const float* const row = taps[i * job.dilation];
      rows[i] = (row ? row : present) + start;
      MNV2_UNROLL for (int j = 0; j < 3; j++) {
        weight[3 * i + j] = row ? load(weights + (3 * i + j) * job.weight_row) : zero();
      }
    }
    for (; x + OUTPUTS <= end; x += OUTPUTS) {
      inner_outputs<OUTPUTS, STRIDE>(job, weight, bias, rows, out + x * BLOCK);
      for (const float*& row : rows) row += OUTPUTS * advance;
    }
    for (; x < end; x++) {
      inner_outputs<1, STRIDE>(job, weight, bias, rows, out + x * BLOCK);
      for (const float*& row : rows) row += advance;
    }
    for (; x < job.out_width; x++) border_output(job, taps, x, offset, weights, bias, out);
  }
}

void depthwise(const Depthwise& job) {
  for (int block = 0; block < job.blocks; block++) {
    for (int lane = 0; lane < BLOCK; lane += LANES) {
      if (job.dilation == 1 && job.stride == 1) {
        depthwise_channels<1>(job, block, lane);
      } else if (job.dilation == 1 && job.stride == 2) {
        depthwise_channels<2>(job, block, lane);
      } else {
        depthwise_channels<0>(job, block, lane);
      }
    }
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
