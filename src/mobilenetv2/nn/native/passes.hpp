// What training does to maps besides matrix products: batch norm with ReLU6, and the depthwise convolution, forward and
// backward, on one chunk of a batch. Maps are channels last: pixels x channels, channels a multiple of 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace mobilenetv2 {

struct bfloat16 {
  std::uint16_t bits;
};

// y = x * scale + shift for each channel, then limited to 0..6 if `relu6`.
struct Norm {
  const float* scale;
  const float* shift;
  bool relu6;
};

template <class T>
struct Maps {
  const T* in;
  int in_height, in_width;
  int out_height, out_width;
  int channels;
  int stride, top, left;  // top, left: padding
};

// What a product takes of its factors at a time: a float, or two bfloat16 that follow each other along the depth.
struct Pair {
  bfloat16 first, second;
};
template <class T>
using Factor = std::conditional_t<std::is_same_v<T, float>, float, Pair>;
template <class T>
constexpr int PER_FACTOR = sizeof(Factor<T>) / sizeof(T);

// out[i][j] = start[j] + the sum over k of a[i * a_row + k * a_step] * b[k * b_row + j], and what `out` was before if
// it `accumulates`; limited to 0..6 if `relu6`. The sums are of floats. Rows, steps and `depth` count units. Whole
// vectors: `columns` is a multiple of Passes::lanes.
template <class T>
struct Product {
  const Factor<T>* a;
  std::ptrdiff_t a_row, a_step;
  const Factor<T>* b;
  std::ptrdiff_t b_row;
  float* out;
  std::ptrdiff_t out_row;
  int rows, columns, depth;
  const float* start;  // null: zeros
  bool accumulates, relu6;
};

template <class T>
struct Passes {
  // sum[c] and squares[c] of in - pivot over `pixels` pixels.
  void (*sums)(const T* in, int pixels, int channels, const float* pivot, float* sum, float* squares);
  void (*normalise)(const T* in, int pixels, int channels, const Norm& norm, T* out);
  // Of the gradient that passes the clamp: its sum and its sum with in - pivot.
  void (*gradient_sums)(const T* gradient, const T* in, int pixels, int channels, const Norm& norm, const float* pivot,
                        float* sum, float* products);
  // out = a * gradient that passes the clamp + b * in + c for each channel.
  void (*gradient)(const T* gradient, const T* in, int pixels, int channels, const Norm& norm, const float* a,
                   const float* b, const float* c, T* out);
  // 3x3, of one image; weights 9 x channels.
  void (*depthwise)(const Maps<T>& maps, const float* weights, T* out);
  // `gradient` is of the output: its gradient for the input, and 9 x channels for the weights.
  void (*depthwise_gradient)(const Maps<T>& maps, const T* gradient, const float* weights, T* out,
                             float* weight_gradient);

  // From here on, for the inverted residual as one operator: what it keeps in memory and what its products take is T,
  // the rest is float.
  int lanes, group;  // floats in a vector; channels in a group of expanded ones, a multiple of it
  void (*product)(const Product<T>& job);
  // Units along the rows of a matrix, where T itself is units along its columns: rows / PER_FACTOR rounded up x
  // columns, with zeros for a row that lacks.
  void (*pair_rows)(const T* in, int rows, int columns, Factor<T>* out);
  // out = in - minus, rows of `out_row` with zeros at their ends.
  void (*subtract)(const T* in, int pixels, int channels, const float* minus, T* out, int out_row);
  void (*convert)(const float* in, int in_row, int pixels, int channels, T* out);
  void (*gradient_sums_kept)(const float* gradient, const T* in, int pixels, int channels, const Norm& norm,
                             const float* pivot, float* sum, float* products);
  void (*gradient_kept)(const float* gradient, const T* in, int pixels, int channels, const Norm& norm, const float* a,
                        const float* b, const float* c, float* out);
  // out = the gradient, but zeros where `limited`, the output of a ReLU6, is 0 or 6; and its sum.
  void (*clip_gradient)(const float* limited, const float* gradient, int pixels, int channels, T* out, float* sum);
};

// The passes of an instruction set, "scalar", "avx2", "avx512" or "avx512bf16"; null if this build or this processor
// lacks it.
template <class T>
const Passes<T>* find_passes(const char* isa);

extern const Passes<float> scalar_passes, avx2_passes, avx512_passes;
extern const Passes<bfloat16> scalar_bfloat16_passes, avx2_bfloat16_passes, avx512_bfloat16_passes,
    avx512bf16_bfloat16_passes;

}  // namespace mobilenetv2
