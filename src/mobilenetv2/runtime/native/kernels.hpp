// The kernels' jobs, and the tables of kernels that each instruction set fills. Plain data only: this header is
// compiled with every target's flags, so a function defined here could end up with instructions that the processor
// lacks.
//
// Jobs are for float; for bfloat16, with sums of floats; or for uint8: activations of a byte, weights of a signed byte,
// sums of 32 bits that become bytes again (Requantize).
#pragma once

#include <cstddef>
#include <cstdint>

#include "bfloat16.hpp"
#include "rounding.hpp"

namespace mobilenetv2 {

// What goes with an activation: a weight of a matrix, as it is packed and as it is given; a weight of a depthwise
// layer; a sum of products; how many neighbours in the depth a lane of packed weights holds.
template <class T>
struct Types;

// X for each type of activations of this build: what runs programs alone has no bfloat16.
#if defined(MNV2_HAS_BFLOAT16)
#define MNV2_EACH_TYPE(X) X(float) X(bfloat16) X(std::uint8_t)
#else
#define MNV2_EACH_TYPE(X) X(float) X(std::uint8_t)
#endif

template <>
struct Types<float> {
  using Weight = float;
  using Given = float;
  using Tap = float;
  using Sum = float;
  static constexpr int TOGETHER = 1;
};
template <>
struct Types<bfloat16> {
  using Weight = bfloat16;
  using Given = float;
  using Tap = float;
  using Sum = float;
  static constexpr int TOGETHER = 2;
};
template <>
struct Types<std::uint8_t> {
  using Weight = std::int8_t;
  using Given = std::int8_t;
  using Tap = std::int8_t;
  using Sum = std::int32_t;
  static constexpr int TOGETHER = 4;
};

// Channels that lie together in a blocked tensor. A blocked tensor keeps BLOCK channels of all its pixels, then the
// next BLOCK; a dense one keeps all channels of a pixel. Either is a pixel stride and a block stride: channel c of
// pixel p lies at p * pixel + c / BLOCK * block + c % BLOCK, with BLOCK for `block` if dense.
constexpr int BLOCK = 16;

// A blocked tensor of bytes may be in fours, for a depthwise convolution that follows: each row is filled up to whole
// groups of FOUR neighbouring pixels, and in a group the bytes of a channel lie side by side, BLOCK x FOUR.
constexpr int FOUR = 4;

// Some neighbouring output vectors of a packed matrix: `vectors` from output `channel` on, whose weights begin
// `weights` into the packed array as depth x vectors x lanes, of bytes as depth / 4 x vectors x lanes x 4. The last
// vector may be half of one: `half`.
struct Panel {
  int channel;
  int vectors;
  std::ptrdiff_t weights;
  bool half;
};

// What makes codes or floats of a layer's int8 sums; rounding.hpp says what each mode does. One number per channel of
// the matrix: `factor` for the modes that round once, `fraction` and `power` for the others, whose results are near sum
// * factor + half. The clamps `low` and `high` of the job are codes less `zero`.
struct Requantize {
  RoundingMode mode;
  const float *factor, *half;
  const double *fraction, *power;
  int zero;                         // zero point of the output
  int shortcut_zero;                // zero point of the shortcut
  float shortcut_factor;            // ONCE: steps of the output in a step of the shortcut
  float product_low, product_high;  // TWICE with a shortcut: clamps of the product
  Twice product, shortcut, total;   // TWICE with a shortcut
  Near near;                        // TWICE and TWICE_NON_NEGATIVE
  float* floats;                    // ..._TO_FLOAT: where results go
  float float_scale;                // ..._TO_FLOAT: what they are multiplied by
};

// out[p][c] = clamp(bias[c] + sum over rows r, segments s, depth k of
//                   in[p * in_pixel + r * in_row + s * in_segment + k] * weight) + shortcut
// for each of `pixels` pixels and the channels of `panels`. A 1x1 convolution has one segment, over a blocked tensor
// one per block; a 3x3 convolution over padded rows has three rows, of three segments if dilated. Each sum runs in the
// order of the weights, whatever the tiles, so that results do not depend on how the work was cut.
//
// Weights beyond a signed byte, as old TensorFlow files have them (unsigned with a zero point), are stored less
// `input_factor`: a pixel's inputs are summed once, and `input_factor` times that is added to all of its outputs. Of
// the last four inputs of a segment only `tail` are summed: what lies behind them belongs to others, and may change.
// Of bfloat16, `tail` is 1 where the last pair of a segment is one input.
template <class T>
struct Matmul {
  const T* in;
  std::ptrdiff_t in_pixel;
  std::ptrdiff_t in_row, in_segment;
  int row_count, segment_count;
  int depth;  // of a segment; a multiple of Types<T>::TOGETHER
  int pixels;
  const Panel* panels;
  int panel_count;
  const typename Types<T>::Weight* weights;
  const typename Types<T>::Sum* bias;  // whole vectors
  int input_factor;                    // of bytes
  int tail;                            // 0: all four, or both
  const std::int32_t* input_sums;      // the kernels' own: of each pixel, times input_factor; null if that is 0
  int channels;                        // stores stop there
  const T* shortcut;                   // dense; null if none. May be `out`
  std::ptrdiff_t shortcut_pixel;
  T* out;
  std::ptrdiff_t out_pixel, out_block;
  int out_channel;  // the channel that `out` points to
  bool in_order;    // of bytes: whether the channels of all panels are, see Kernels::fours_vectors
  int fours_width;  // of bytes, with panels in order: pixels of a row of `out`, which is in fours; 0 if it is not
  float low, high;
  const typename Types<T>::Weight* ahead;  // weights that come next: `ahead_lines` cache lines to fetch meanwhile
  int ahead_lines;
  Requantize requantize;  // of bytes; of bfloat16, `floats` alone
};

// 3x3 depthwise convolution of output rows, blocked tensors on both sides. Tap i of output row r reads
// rows[r * stride + i * dilation], null where that row lies outside the image; at least one row of the three exists,
// any stride and dilation of at least 1.
// Weights of float: 9 x weight_row. Of bytes: a block is `copies` x 3 rows x BLOCK x 4, the last being a row's taps and
// a zero; weights beyond a signed byte are the sum of several copies.
template <class T>
struct Depthwise {
  const T* const* rows;  // their first block
  std::ptrdiff_t in_block;
  int in_width;
  int out_rows, out_width;
  int stride, dilation, left;  // left: columns of padding
  int blocks;
  const typename Types<T>::Tap* weights;  // beginning at the first block
  std::ptrdiff_t weight_row, weight_block;
  const typename Types<T>::Sum* bias;
  T* out;
  std::ptrdiff_t out_block;
  float low, high;
  int copies;             // of bytes
  bool fours;             // of bytes: whether the rows are in fours, see takes_fours
  int zero;               // what a pixel outside the image counts as
  Requantize requantize;  // of bytes
};

constexpr int MOST_POSSIBLE = 64;

// labels[i] = the first channel with the greatest value, of each of `width` outputs of a resized row:
// upper[left[i] + c] * (1 - share[i]) + upper[right[i] + c] * share[i]. The terms of `lower`, if it is not null, are
// added to those of `upper`; values that are codes have a half added and their fraction cut off.
struct Labels {
  const float *upper, *lower;  // per column, channels side by side
  bool codes;
  int channels, width;
  const std::int32_t *left, *right;
  const std::int32_t* ends;  // of each output, the first behind it that lies between other columns
  const float* share;
  // For the outputs between a column and the next, the channels that may be the greatest, in order: how many, and
  // which, MOST_POSSIBLE + 1 numbers per column. Null: all may be.
  const std::uint8_t* possible;
  std::int32_t* labels;
};

constexpr int FMA_CHAINS = 12;  // enough to hide the latency of two units, and few enough for 16 registers

template <class T>
struct Kernels {
  const char* isa;
  int lanes;
  int panel_vectors;  // widest panel
  int tile_rows;      // pixels at once with that
  // Whether panels of two and four vectors whose results become bytes have their channels interleaved in the order that
  // the pack instructions undo, see store_order.hpp.
  bool interleaves;
  // The most vectors of a panel that ends with half of one, whose channels are in order; 0: there are none.
  int half_vectors;
  // The widest panel of matrices whose channels are in order and whose products may be in fours; 0: there are none.
  int fours_vectors;
  int fours_rows;  // pixels at once with that
  // Neighbours in the depth whose packed weights for an output lie side by side: Types<T>::TOGETHER, or 2 of bytes.
  int together;
  // What inputs are taken less where bytes are multiplied; a bias is then more by as many times the sum of its weights.
  int input_offset;
  void (*matmul)(const Matmul<T>&);
  void (*depthwise)(const Depthwise<T>&);
  // Sums over `pixels` pixels, `stride` apart, of `channels` channels.
  void (*sum)(const T* in, int pixels, std::ptrdiff_t stride, int channels, typename Types<T>::Sum* out);
  void (*labels)(const Labels&);
  // `rounds` multiply-adds, of bfloat16 and bytes dot products of two and four, in every lane of FMA_CHAINS vectors,
  // each chain on its own; returns a number that all of them went into.
  float (*fma_chains)(int rounds, float factor);
};

// The table of an instruction set by name; null if this build or this processor lacks it, or has no kernels of its own.
template <class T>
const Kernels<T>* find_kernels(const char* isa);

}  // namespace mobilenetv2
