// The kernels of training, each for a part of a batch: batch norm with ReLU6, the depthwise convolution and matrix
// products, forward and backward. Maps are channels last: pixels x channels; channels are a multiple of 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../../runtime/native/bfloat16.hpp"

namespace mobilenetv2 {

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

// The unit of a factor of a product: a float, or two bfloat16 that are neighbours along the depth.
struct Pair {
  bfloat16 first, second;
};
template <class T>
using Factor = std::conditional_t<std::is_same_v<T, float>, float, Pair>;
template <class T>
constexpr int PER_FACTOR = sizeof(Factor<T>) / sizeof(T);

// out[i][j] = start[j] + the sum over k of a[i * a_row + k * a_step] * b[k * b_row + j], plus the previous value of
// `out` if `accumulates`; limited to 0..6 if `relu6`. Sums are floats. Rows, steps and `depth` count factors. `columns`
// is a multiple of Passes::lanes.
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
  // Sums of the gradient, and of its products with in - pivot, where the ReLU6 passes it on.
  void (*gradient_sums)(const T* gradient, const T* in, int pixels, int channels, const Norm& norm, const float* pivot,
                        float* sum, float* products);
  // out = a * gradient + b * in + c for each channel; the gradient is 0 where the ReLU6 does not pass it on.
  void (*gradient)(const T* gradient, const T* in, int pixels, int channels, const Norm& norm, const float* a,
                   const float* b, const float* c, T* out);
  // The 3x3 depthwise convolution of one image; the weights are 9 x channels.
  void (*depthwise)(const Maps<T>& maps, const float* weights, T* out);
  // From the gradient of the output: the gradients of the input and of the weights, 9 x channels.
  void (*depthwise_gradient)(const Maps<T>& maps, const T* gradient, const float* weights, T* out,
                             float* weight_gradient);

  // From here on for the inverted residual as one operator: maps that it keeps and factors of products are T, the rest
  // is float.
  int lanes, group;  // floats per vector; expanded channels per group, a multiple of `lanes`
  void (*product)(const Product<T>& job);
  // Joins PER_FACTOR neighbouring rows of a matrix into one row of factors; a missing last row is zeros.
  void (*pair_rows)(const T* in, int rows, int columns, Factor<T>* out);
  // out = in - minus; rows of `out` have `out_row` values, with zeros at their ends.
  void (*subtract)(const T* in, int pixels, int channels, const float* minus, T* out, int out_row);
  // Floats as T, without the values between the end of a row and `in_row`.
  void (*convert)(const float* in, int in_row, int pixels, int channels, T* out);
  // As gradient_sums() and gradient(), for a gradient of floats.
  void (*gradient_sums_kept)(const float* gradient, const T* in, int pixels, int channels, const Norm& norm,
                             const float* pivot, float* sum, float* products);
  void (*gradient_kept)(const float* gradient, const T* in, int pixels, int channels, const Norm& norm, const float* a,
                        const float* b, const float* c, float* out);
  // out = the gradient, or zero where `limited`, the output of a ReLU6, is 0 or 6; sum = its sum.
  void (*clip_gradient)(const float* limited, const float* gradient, int pixels, int channels, T* out, float* sum);
};

// The kernels of an instruction set: "scalar", "avx2", "avx512" or "avx512bf16". Null if this build or this processor
// does not have it.
template <class T>
const Passes<T>* find_passes(const char* isa);

}  // namespace mobilenetv2
