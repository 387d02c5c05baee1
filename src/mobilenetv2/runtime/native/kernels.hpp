// The kernels' jobs, and the table of kernels that each instruction set fills. Plain data only: this header is compiled
// with every target's flags, so a function defined here could end up with instructions that the processor lacks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mobilenetv2 {

// Some neighbouring output vectors of a packed matrix: `vectors` from output `channel` on, whose weights begin
// `weights` floats into the packed array as depth x vectors x lanes.
struct Panel {
  int channel;
  int vectors;
  std::ptrdiff_t weights;
};

// out[p][c] = clamp(bias[c] + sum over segments s, depth k of in[p * in_pixel + segments[s] + k] * weight) + shortcut
// for each of `pixels` pixels and the channels of `panels`. A 1x1 convolution has one segment; a 3x3 convolution over
// padded rows has one a kernel row. Each sum runs in the order of the weights, whatever the tiles, so that results do
// not depend on how the work was cut.
struct Matmul {
  const float* in;
  std::ptrdiff_t in_pixel;         // floats from a pixel to the next
  const std::ptrdiff_t* segments;  // floats from `in` to each segment
  int segment_count;
  int depth;
  int pixels;
  const Panel* panels;
  int panel_count;
  const float* weights;
  const float* bias;      // whole vectors
  int channels;           // of the whole matrix; stores stop there
  const float* shortcut;  // laid out as `out`, but from channel 0; null if none
  std::ptrdiff_t shortcut_pixel;
  float* out;
  std::ptrdiff_t out_pixel;
  int out_channel;  // the channel that `out` points to
  float low, high;
};

// 3x3 depthwise convolution of output rows. Tap i of output row r reads rows[r * stride + i * dilation], null where
// that row lies outside the picture; at least one row of the three exists.
struct Depthwise {
  const float* const* rows;
  std::ptrdiff_t in_pixel;
  int in_width;
  int out_rows, out_width;
  int stride, dilation, left;  // left: columns of padding
  int channels;
  const float* weights;  // 9 x weight_row, beginning at the first channel
  std::ptrdiff_t weight_row;
  const float* bias;
  float* out;  // rows of out_width pixels, dense
  std::ptrdiff_t out_pixel;
  float low, high;
};

constexpr int FMA_CHAINS = 12;  // enough to hide the latency of two units, and few enough for 16 registers

struct Kernels {
  const char* isa;
  int lanes;
  int panel_vectors;  // widest panel
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
