// The kernels' jobs, and the table of kernels that each instruction set fills. Plain data only: this header is compiled
// with every target's flags, so a function defined here could end up with instructions that the processor lacks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mobilenetv2 {

// Channels that lie together in a blocked tensor, and floats of a cache line. A blocked tensor keeps BLOCK channels of
// all its pixels, then the next BLOCK; a dense one keeps all channels of a pixel. Either is a pixel stride and a block
// stride: channel c of pixel p lies at p * pixel + c / BLOCK * block + c % BLOCK, with BLOCK for `block` if dense.
constexpr int BLOCK = 16;

// Some neighbouring output vectors of a packed matrix: `vectors` from output `channel` on, whose weights begin
// `weights` floats into the packed array as depth x vectors x lanes.
struct Panel {
  int channel;
  int vectors;
  std::ptrdiff_t weights;
};

// out[p][c] = clamp(bias[c] + sum over rows r, segments s, depth k of
//                   in[p * in_pixel + r * in_row + s * in_segment + k] * weight) + shortcut
// for each of `pixels` pixels and the channels of `panels`. A 1x1 convolution has one segment, over a blocked tensor
// one a block; a 3x3 convolution over padded rows has three rows, of three segments if dilated. Each sum runs in the
// order of the weights, whatever the tiles, so that results do not depend on how the work was cut.
struct Matmul {
  const float* in;
  std::ptrdiff_t in_pixel;
  std::ptrdiff_t in_row, in_segment;
  int row_count, segment_count;
  int depth;  // of a segment
  int pixels;
  const Panel* panels;
  int panel_count;
  const float* weights;
  const float* bias;      // whole vectors
  int channels;           // stores stop there
  const float* shortcut;  // dense; null if none. May be `out`
  std::ptrdiff_t shortcut_pixel;
  float* out;
  std::ptrdiff_t out_pixel, out_block;
  int out_channel;  // the channel that `out` points to
  float low, high;
  const float* ahead;  // weights that come next: `ahead_lines` cache lines to fetch meanwhile
  int ahead_lines;
};

// 3x3 depthwise convolution of output rows, blocked tensors on both sides. Tap i of output row r reads
// rows[r * stride + i * dilation], null where that row lies outside the picture; at least one row of the three exists.
struct Depthwise {
  const float* const* rows;  // their first block
  std::ptrdiff_t in_block;
  int in_width;
  int out_rows, out_width;
  int stride, dilation, left;  // left: columns of padding
  int blocks;
  const float* weights;  // 9 x weight_row, beginning at the first channel
  std::ptrdiff_t weight_row;
  const float* bias;
  float* out;
  std::ptrdiff_t out_block;
  float low, high;
};

constexpr int FMA_CHAINS = 12;  // enough to hide the latency of two units, and few enough for 16 registers

struct Kernels {
  const char* isa;
  int lanes;
  int panel_vectors;  // widest panel
  int tile_rows;      // pixels at once with that
  void (*matmul)(const Matmul&);
  void (*depthwise)(const Depthwise&);
  void (*add)(const float* a, const float* b, float* out, std::ptrdiff_t count);
  // Mean over `pixels` pixels, `stride` floats apart, of `channels` channels.
  void (*mean)(const float* in, int pixels, std::ptrdiff_t stride, int channels, float* out);
  // `rounds` multiply-adds in every lane of FMA_CHAINS vectors, each chain on its own; returns a number that all of
  // them went into.
  float (*fma_chains)(int rounds, float factor);
};

// The table of an instruction set by name; null if this build or this processor lacks it.
const Kernels* find_kernels(const char* isa);

// The last two exist only in builds with MNV2_X86.
extern const Kernels* const scalar_kernels;
extern const Kernels* const avx2_kernels;
extern const Kernels* const avx512_kernels;

}  // namespace mobilenetv2
