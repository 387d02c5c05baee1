// The 3x3 depthwise convolution and its gradients. Included once per target by passes.cpp.
#pragma once

#include "lanes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// The 3 x 3 pixels around an output pixel; zeros outside the image.
template <class T>
struct Window {
  const T* rows[3];  // null outside the image
  int width, channels, lanes;

  void column(int x, Vec* to) const {
    const bool outside = x < 0 || x >= width;
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      to[i] = outside || !rows[i] ? zero() : load_lanes(rows[i] + static_cast<std::ptrdiff_t>(x) * channels, lanes);
    }
  }
};

// The window of an output row; `in` points to the first channel.
template <class T>
Window<T> window(const T* in, int height, int width, int channels, int lanes, int top_row) {
  Window<T> result{{nullptr, nullptr, nullptr}, width, channels, lanes};
  for (int i = 0; i < 3; i++) {
    if (top_row + i >= 0 && top_row + i < height) {
      result.rows[i] = in + static_cast<std::ptrdiff_t>(top_row + i) * width * channels;
    }
  }
  return result;
}

// `flipped`: the taps in reverse order.
template <class T>
void filter(const Maps<T>& maps, const float* weights, bool flipped, T* out) {
  const int channels = maps.channels;
  each_vector(channels, [&](int c, int lanes) {
    Vec tap[3][3];  // column, row
    MNV2_UNROLL for (int i = 0; i < 9; i++) {
      tap[i % 3][i / 3] = load_lanes(weights + (flipped ? 8 - i : i) * channels + c, lanes);
    }
    for (int y = 0; y < maps.out_height; y++) {
      const Window<T> in =
          window(maps.in + c, maps.in_height, maps.in_width, channels, lanes, y * maps.stride - maps.top);
      T* to = out + static_cast<std::ptrdiff_t>(y) * maps.out_width * channels + c;
      Vec left[3], middle[3], right[3];
      in.column(-maps.left, left);
      in.column(1 - maps.left, middle);
      for (int x = 0; x < maps.out_width; x++, to += channels) {
        const int at = x * maps.stride - maps.left;
        if (maps.stride == 2 && x > 0) in.column(at + 1, middle);
        in.column(at + 2, right);
        Vec sum = mul(left[0], tap[0][0]), more = mul(middle[0], tap[1][0]), most = mul(right[0], tap[2][0]);
        MNV2_UNROLL for (int i = 1; i < 3; i++) {
          sum = fma(left[i], tap[0][i], sum);
          more = fma(middle[i], tap[1][i], more);
          most = fma(right[i], tap[2][i], most);
        }
        store_lanes(to, add(add(sum, more), most), lanes);
        MNV2_UNROLL for (int i = 0; i < 3; i++) {
          left[i] = maps.stride == 1 ? middle[i] : right[i];
          middle[i] = right[i];
        }
      }
    }
  });
}

template <class T>
void depthwise(const Maps<T>& maps, const float* weights, T* out) {
  filter(maps, weights, false, out);
}

// The gradient of the input for any stride: each input pixel sums over the outputs that it contributed to.
template <class T>
void input_gradient(const Maps<T>& maps, const T* gradient, const float* weights, T* out) {
  const int channels = maps.channels;
  each_vector(channels, [&](int c, int lanes) {
    Vec tap[3][3];  // row, column
    MNV2_UNROLL for (int i = 0; i < 9; i++) tap[i / 3][i % 3] = load_lanes(weights + i * channels + c, lanes);
    for (int y = 0; y < maps.in_height; y++) {
      T* to = out + static_cast<std::ptrdiff_t>(y) * maps.in_width * channels + c;
      for (int x = 0; x < maps.in_width; x++, to += channels) {
        Vec sum = zero();
        MNV2_UNROLL for (int i = 0; i < 3; i++) {
          const int row = y + maps.top - i;
          if (row < 0 || row % maps.stride != 0 || row / maps.stride >= maps.out_height) continue;
          const T* from = gradient + static_cast<std::ptrdiff_t>(row / maps.stride) * maps.out_width * channels + c;
          MNV2_UNROLL for (int j = 0; j < 3; j++) {
            const int column = x + maps.left - j;
            if (column < 0 || column % maps.stride != 0 || column / maps.stride >= maps.out_width) continue;
            const Vec g = load_lanes(from + static_cast<std::ptrdiff_t>(column / maps.stride) * channels, lanes);
            sum = fma(g, tap[i][j], sum);
          }
        }
        store_lanes(to, sum, lanes);
      }
    }
  });
}

// The gradient of the weights.
template <class T>
void correlate(const Maps<T>& maps, const T* gradient, float* weight_gradient) {
  const int channels = maps.channels;
  each_vector(channels, [&](int c, int lanes) {
    Vec tap[3][3];  // column, row
    MNV2_UNROLL for (int i = 0; i < 9; i++) tap[i % 3][i / 3] = zero();
    for (int y = 0; y < maps.out_height; y++) {
      const Window<T> in =
          window(maps.in + c, maps.in_height, maps.in_width, channels, lanes, y * maps.stride - maps.top);
      const T* slope = gradient + static_cast<std::ptrdiff_t>(y) * maps.out_width * channels + c;
      Vec left[3], middle[3], right[3];
      in.column(-maps.left, left);
      in.column(1 - maps.left, middle);
      for (int x = 0; x < maps.out_width; x++, slope += channels) {
        const int at = x * maps.stride - maps.left;
        if (maps.stride == 2 && x > 0) in.column(at + 1, middle);
        in.column(at + 2, right);
        const Vec g = load_lanes(slope, lanes);
        MNV2_UNROLL for (int i = 0; i < 3; i++) {
          tap[0][i] = fma(g, left[i], tap[0][i]);
          tap[1][i] = fma(g, middle[i], tap[1][i]);
          tap[2][i] = fma(g, right[i], tap[2][i]);
          left[i] = maps.stride == 1 ? middle[i] : right[i];
          middle[i] = right[i];
        }
      }
    }
    MNV2_UNROLL for (int i = 0; i < 9; i++) store_lanes(weight_gradient + i * channels + c, tap[i % 3][i / 3], lanes);
  });
}

template <class T>
void depthwise_gradient(const Maps<T>& maps, const T* gradient, const float* weights, T* out, float* weight_gradient) {
  if (maps.stride == 1) {
    const Maps<T> back = {gradient, maps.out_height, maps.out_width, maps.in_height, maps.in_width, maps.channels,
                          1,        2 - maps.top,    2 - maps.left};
    filter(back, weights, true, out);
  } else {
    input_gradient(maps, gradient, weights, out);
  }
  correlate(maps, gradient, weight_gradient);
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
