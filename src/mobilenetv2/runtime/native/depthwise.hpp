// The 3x3 depthwise convolution, for the target that MNV2_NAMESPACE names. Every output is the same sum in the same
// order, bias first, then the taps column by column; taps outside the image count as zeros.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int OUTPUTS = 4;  // at once: with nine weights they fit sixteen registers

// One output row of LANES channels: its taps, and the three rows that they read, at column 0.
struct Row {
  Vec weight[9], bias, low, high;
  const float* in[3];
  float* out;
};

// COUNT outputs side by side from x on. With STRIDE 1 and 2 neighbours share the columns that they read; STRIDE 0 is
// any stride and dilation. Where EDGE, columns may lie outside the image.
template <int COUNT, int STRIDE, bool EDGE>
inline void outputs(const Depthwise<float>& job, const Row& row, int x) {
  constexpr int SPACING = STRIDE > 0 ? STRIDE : 3;  // taps of neighbours, counted in columns read
  const int first = x * job.stride - job.left;
  const float* in[3];
  MNV2_UNROLL for (int i = 0; i < 3; i++) in[i] = row.in[i] + static_cast<std::ptrdiff_t>(first) * BLOCK;
  Vec sum[COUNT];
  MNV2_UNROLL for (int o = 0; o < COUNT; o++) sum[o] = row.bias;
  MNV2_UNROLL for (int c = 0; c < (COUNT - 1) * SPACING + 3; c++) {
    const int column = STRIDE > 0 ? c : c / 3 * job.stride + c % 3 * job.dilation;
    const Mask inside = mask_if(!EDGE || (first + column >= 0 && first + column < job.in_width));
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      const float* const from = in[i] + column * BLOCK;
      const Vec value = in_register(EDGE ? load_if(inside, from) : load(from));
      MNV2_UNROLL for (int o = 0; o < COUNT; o++) {
        const int tap = c - o * SPACING;
        if (tap >= 0 && tap < 3) sum[o] = fma(row.weight[3 * i + tap], value, sum[o]);
      }
    }
  }
  MNV2_UNROLL for (int o = 0; o < COUNT; o++) {
    store(row.out + (x + o) * BLOCK, lowest(highest(sum[o], row.low), row.high));
  }
}

// All rows of LANES channels, which begin at `lane` of a block.
template <int STRIDE>
MNV2_NOINLINE void depthwise_channels(const Depthwise<float>& job, int block, int lane) {
  const int reach = (OUTPUTS - 1) * job.stride + 2 * job.dilation;  // of OUTPUTS, from their first column to the last
  const std::ptrdiff_t offset = block * job.in_block + lane;
  const float* const weights = job.weights + block * BLOCK + lane;
  Row row;
  row.bias = load(job.bias + block * BLOCK + lane);
  row.low = splat(job.low);
  row.high = splat(job.high);
  row.out = job.out + block * job.out_block + lane;
  for (int y = 0; y < job.out_rows; y++, row.out += static_cast<std::ptrdiff_t>(job.out_width) * BLOCK) {
    const float* const* const taps = job.rows + y * job.stride;
    const float* present = nullptr;  // stands for rows outside the image, whose weights are zero
    for (int i = 0; i < 3; i++) present = taps[i * job.dilation] ? taps[i * job.dilation] : present;
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      const float* const in = taps[i * job.dilation];
      row.in[i] = (in ? in : present) + offset;
      MNV2_UNROLL for (int j = 0; j < 3; j++) {
        row.weight[3 * i + j] = in ? load(weights + (3 * i + j) * job.weight_row) : zero();
      }
    }
    int x = 0;
    for (; x + OUTPUTS <= job.out_width; x += OUTPUTS) {
      const int first = x * job.stride - job.left;
      if (first >= 0 && first + reach < job.in_width) {
        outputs<OUTPUTS, STRIDE, false>(job, row, x);
      } else {
        outputs<OUTPUTS, STRIDE, true>(job, row, x);
      }
    }
    switch (job.out_width - x) {
      case 3:
        outputs<3, STRIDE, true>(job, row, x);
        break;
      case 2:
        outputs<2, STRIDE, true>(job, row, x);
        break;
      case 1:
        outputs<1, STRIDE, true>(job, row, x);
        break;
      default:
        break;
    }
  }
}

void depthwise(const Depthwise<float>& job) {
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
