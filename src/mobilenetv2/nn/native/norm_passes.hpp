// Batch norm with ReLU6, its gradient, and conversions. Included once per target by passes.cpp.
#pragma once

#include "lanes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

template <class T>
void sums(const T* in, int pixels, int channels, const float* pivot, float* sum, float* squares) {
  each_group(channels, [&](int c, int width, auto size) {
    constexpr int V = decltype(size)::vectors;
    Vec minus[V], total[V], square[V];
    MNV2_UNROLL for (int v = 0; v < V; v++) {
      minus[v] = mul(load_lanes(pivot + c + v * LANES, lanes_of<V>(v, width)), splat(-1.0f));
      total[v] = square[v] = zero();
    }
    const T* at = in + c;
    for (int p = 0; p < pixels; p++, at += channels) {
      MNV2_UNROLL for (int v = 0; v < V; v++) {
        const Vec x = add(load_lanes(at + v * LANES, lanes_of<V>(v, width)), minus[v]);
        total[v] = add(total[v], x);
        square[v] = fma(x, x, square[v]);
      }
    }
    MNV2_UNROLL for (int v = 0; v < V; v++) {
      store_lanes(sum + c + v * LANES, total[v], lanes_of<V>(v, width));
      store_lanes(squares + c + v * LANES, square[v], lanes_of<V>(v, width));
    }
  });
}

template <class T>
void normalise(const T* in, int pixels, int channels, const Norm& norm, T* out) {
  each_group(channels, [&](int c, int width, auto size) {
    constexpr int V = decltype(size)::vectors;
    Vec scale[V], shift[V];
    MNV2_UNROLL for (int v = 0; v < V; v++) {
      scale[v] = load_lanes(norm.scale + c + v * LANES, lanes_of<V>(v, width));
      shift[v] = load_lanes(norm.shift + c + v * LANES, lanes_of<V>(v, width));
    }
    const Vec six = splat(6.0f);
    const T* from = in + c;
    T* to = out + c;
    for (int p = 0; p < pixels; p++, from += channels, to += channels) {
      MNV2_UNROLL for (int v = 0; v < V; v++) {
        Vec y = fma(load_lanes(from + v * LANES, lanes_of<V>(v, width)), scale[v], shift[v]);
        if (norm.relu6) y = lowest(highest(y, zero()), six);
        store_lanes(to + v * LANES, y, lanes_of<V>(v, width));
      }
    }
  });
}

template <class Slope, class In>
void gradient_sums(const Slope* gradient, const In* in, int pixels, int channels, const Norm& norm, const float* pivot,
                   float* sum, float* products) {
  each_group(channels, [&](int c, int width, auto size) {
    constexpr int V = decltype(size)::vectors;
    Vec scale[V], shift[V], minus[V], total[V], product[V];
    MNV2_UNROLL for (int v = 0; v < V; v++) {
      scale[v] = load_lanes(norm.scale + c + v * LANES, lanes_of<V>(v, width));
      shift[v] = load_lanes(norm.shift + c + v * LANES, lanes_of<V>(v, width));
      minus[v] = mul(load_lanes(pivot + c + v * LANES, lanes_of<V>(v, width)), splat(-1.0f));
      total[v] = product[v] = zero();
    }
    const In* from = in + c;
    const Slope* slope = gradient + c;
    for (int p = 0; p < pixels; p++, from += channels, slope += channels) {
      MNV2_UNROLL for (int v = 0; v < V; v++) {
        const Vec x = load_lanes(from + v * LANES, lanes_of<V>(v, width));
        Vec g = load_lanes(slope + v * LANES, lanes_of<V>(v, width));
        if (norm.relu6) g = inside(fma(x, scale[v], shift[v]), g);
        total[v] = add(total[v], g);
        product[v] = fma(g, add(x, minus[v]), product[v]);
      }
    }
    MNV2_UNROLL for (int v = 0; v < V; v++) {
      store_lanes(sum + c + v * LANES, total[v], lanes_of<V>(v, width));
      store_lanes(products + c + v * LANES, product[v], lanes_of<V>(v, width));
    }
  });
}

template <class Slope, class In>
void gradient(const Slope* gradient, const In* in, int pixels, int channels, const Norm& norm, const float* a,
              const float* b, const float* c, Slope* out) {
  each_group(channels, [&](int channel, int width, auto size) {
    constexpr int V = decltype(size)::vectors;
    Vec scale[V], shift[V], by_gradient[V], by_input[V], constant[V];
    MNV2_UNROLL for (int v = 0; v < V; v++) {
      const int at = channel + v * LANES, lanes = lanes_of<V>(v, width);
      scale[v] = load_lanes(norm.scale + at, lanes);
      shift[v] = load_lanes(norm.shift + at, lanes);
      by_gradient[v] = load_lanes(a + at, lanes);
      by_input[v] = load_lanes(b + at, lanes);
      constant[v] = load_lanes(c + at, lanes);
    }
    const In* from = in + channel;
    const Slope* slope = gradient + channel;
    Slope* to = out + channel;
    for (int p = 0; p < pixels; p++, from += channels, slope += channels, to += channels) {
      MNV2_UNROLL for (int v = 0; v < V; v++) {
        const Vec x = load_lanes(from + v * LANES, lanes_of<V>(v, width));
        Vec g = load_lanes(slope + v * LANES, lanes_of<V>(v, width));
        if (norm.relu6) g = inside(fma(x, scale[v], shift[v]), g);
        store_lanes(to + v * LANES, fma(g, by_gradient[v], fma(x, by_input[v], constant[v])), lanes_of<V>(v, width));
      }
    }
  });
}

template <class T>
void subtract(const T* in, int pixels, int channels, const float* minus, T* out, int out_row) {
  each_vector(channels, [&](int c, int lanes) {
    const Vec less = mul(load_lanes(minus + c, lanes), splat(-1.0f));
    for (int p = 0; p < pixels; p++) {
      const Vec x = load_lanes(in + static_cast<std::ptrdiff_t>(p) * channels + c, lanes);
      store_lanes(out + static_cast<std::ptrdiff_t>(p) * out_row + c, add(x, less), LANES);  // zeros beyond
    }
  });
}

template <class T>
void convert(const float* in, int in_row, int pixels, int channels, T* out) {
  each_vector(channels, [&](int c, int lanes) {
    for (int p = 0; p < pixels; p++) {
      const Vec x = load_lanes(in + static_cast<std::ptrdiff_t>(p) * in_row + c, lanes);
      store_lanes(out + static_cast<std::ptrdiff_t>(p) * channels + c, x, lanes);
    }
  });
}

template <class T>
void clip_gradient(const float* limited, const float* gradient, int pixels, int channels, T* out, float* sum) {
  each_vector(channels, [&](int c, int lanes) {
    Vec total = zero();
    for (int p = 0; p < pixels; p++) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(p) * channels + c;
      const Vec g = inside(load_lanes(limited + at, lanes), load_lanes(gradient + at, lanes));
      store_lanes(out + at, g, lanes);
      total = add(total, g);
    }
    store_lanes(sum + c, total, lanes);
  });
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
