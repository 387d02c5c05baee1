// The bodies of passes.hpp, compiled once a target; see simd.hpp.
#pragma once

#include <cstring>

#include "../../runtime/native/simd.hpp"
#include "passes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int GROUP = LANES == 16 ? 32 : 16;

// Loads and stores of `count` lanes; count is LANES, or 8 of 16. Float to bfloat16 rounds to even.
#if defined(MNV2_TARGET_AVX512)

inline Vec load_lanes(const float* from, int count) { return count == LANES ? load(from) : load_some(from, count); }
inline void store_lanes(float* to, Vec value, int count) {
  count == LANES ? store(to, value) : store_some(to, value, count);
}
inline Vec load_lanes(const bfloat16* from, int count) {
  const __m256i bits = count == LANES ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                                      : _mm256_maskz_loadu_epi16(first(count), from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store_lanes(bfloat16* to, Vec value, int count) {
#if defined(MNV2_TARGET_AVX512BF16)
  const __m256i high = (__m256i)_mm512_cvtneps_pbh(value);
#else
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
  if (count == LANES) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), high);
  } else {
    _mm256_mask_storeu_epi16(to, first(count), high);
  }
}
// `value` where 0 < at < 6, else 0.
inline Vec inside(Vec at, Vec value) {
  const __mmask16 above = _mm512_cmp_ps_mask(at, _mm512_setzero_ps(), _CMP_GT_OQ);
  return _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(above, at, _mm512_set1_ps(6.0f), _CMP_LT_OQ), value);
}

#elif defined(MNV2_TARGET_AVX2)

inline Vec load_lanes(const float* from, int) { return load(from); }
inline void store_lanes(float* to, Vec value, int) { store(to, value); }
inline Vec load_lanes(const bfloat16* from, int) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline void store_lanes(bfloat16* to, Vec value, int) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i high = _mm256_srli_epi32(rounded, 16);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
}
inline Vec inside(Vec at, Vec value) {
  const __m256 above = _mm256_cmp_ps(at, _mm256_setzero_ps(), _CMP_GT_OQ);
  const __m256 below = _mm256_cmp_ps(at, _mm256_set1_ps(6.0f), _CMP_LT_OQ);
  return _mm256_and_ps(value, _mm256_and_ps(above, below));
}

#else

inline Vec load_lanes(const float* from, int) { return *from; }
inline void store_lanes(float* to, Vec value, int) { *to = value; }
inline Vec load_lanes(const bfloat16* from, int) {
  const std::uint32_t bits = static_cast<std::uint32_t>(from->bits) << 16;
  Vec value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline void store_lanes(bfloat16* to, Vec value, int) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  to->bits = static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline Vec inside(Vec at, Vec value) { return at > 0.0f && at < 6.0f ? value : 0.0f; }

#endif

// Calls body(channel, lanes) for each vector of channels.
template <class Body>
void each_vector(int channels, Body&& body) {
  for (int c = 0; c < channels; c += LANES) body(c, channels - c < LANES ? channels - c : LANES);
}

// Calls body(channel, channels, Size<V>) for groups of V = 4 vectors, and smaller ones for what is left.
template <int V>
struct Size {
  static constexpr int vectors = V;
};
template <class Body>
void each_group(int channels, Body&& body) {
  int c = 0;
  for (; c + 4 * LANES <= channels; c += 4 * LANES) body(c, 4 * LANES, Size<4>());
  for (; c + 2 * LANES <= channels; c += 2 * LANES) body(c, 2 * LANES, Size<2>());
  for (; c < channels; c += LANES) body(c, channels - c < LANES ? channels - c : LANES, Size<1>());
}

template <int V>
inline int lanes_of(int v, int channels) {
  return V == 1 ? channels : (static_cast<void>(v), LANES);
}

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

// Three pixels of three rows around an output pixel, zero outside the image.
template <class T>
struct Window {
  const T* rows[3];  // null outside
  int width, channels, lanes;

  void column(int x, Vec* to) const {
    const bool outside = x < 0 || x >= width;
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      to[i] = outside || !rows[i] ? zero() : load_lanes(rows[i] + static_cast<std::ptrdiff_t>(x) * channels, lanes);
    }
  }
};

// The rows that tap an output row; `in` is at a channel.
template <class T>
Window<T> window(const T* in, int height, int width, int channels, int lanes, int top_row) {
  Window<T> found{{nullptr, nullptr, nullptr}, width, channels, lanes};
  for (int i = 0; i < 3; i++) {
    if (top_row + i >= 0 && top_row + i < height) {
      found.rows[i] = in + static_cast<std::ptrdiff_t>(top_row + i) * width * channels;
    }
  }
  return found;
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

// Each input pixel gathers from the outputs that it was a tap of.
template <class T>
void spread(const Maps<T>& maps, const T* gradient, const float* weights, T* out) {
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
    spread(maps, gradient, weights, out);
  }
  correlate(maps, gradient, weight_gradient);
}

template <class T>
void centred(const T* in, int pixels, int channels, const float* minus, T* out, int out_row) {
  each_vector(channels, [&](int c, int lanes) {
    const Vec less = mul(load_lanes(minus + c, lanes), splat(-1.0f));
    for (int p = 0; p < pixels; p++) {
      const Vec x = load_lanes(in + static_cast<std::ptrdiff_t>(p) * channels + c, lanes);
      store_lanes(out + static_cast<std::ptrdiff_t>(p) * out_row + c, add(x, less), LANES);  // beyond is read as zero
    }
  });
}

template <class T>
void stored(const float* in, int in_row, int pixels, int channels, T* out) {
  each_vector(channels, [&](int c, int lanes) {
    for (int p = 0; p < pixels; p++) {
      const Vec x = load_lanes(in + static_cast<std::ptrdiff_t>(p) * in_row + c, lanes);
      store_lanes(out + static_cast<std::ptrdiff_t>(p) * channels + c, x, lanes);
    }
  });
}

template <class T>
void clip(const float* limited, const float* gradient, int pixels, int channels, T* out, float* sum) {
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

// Keeps GCC from holding all of a tile's factors in registers from one part to the next.
inline void read_again() {
#if defined(__GNUC__)
  asm volatile("" : : : "memory");
#endif
}

// Units of vectors: PARTS of each are multiplied one after the other, where the target has no product of pairs.
template <class T>
constexpr int PARTS = PER_UNIT<T>;
#if defined(MNV2_TARGET_AVX512BF16)
template <>
constexpr int PARTS<bfloat16> = 1;
#endif

inline Vec load_units(const float* from, int) { return load(from); }
inline Vec splat_units(const float* from, int) { return splat(*from); }
template <class T>
Vec multiply_add(Vec a, Vec b, Vec sum) {
  return fma(a, b, sum);
}

#if defined(MNV2_TARGET_AVX512)

inline Vec part_of(__m512i pairs, int part) {
#if defined(MNV2_TARGET_AVX512BF16)
  (void)part;
  return _mm512_castsi512_ps(pairs);
#else
  return _mm512_castsi512_ps(part == 0 ? _mm512_slli_epi32(pairs, 16)
                                       : _mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
#endif
}
inline Vec load_units(const Pair* from, int part) { return part_of(_mm512_loadu_si512(from), part); }
inline Vec splat_units(const Pair* from, int part) {
  int bits;
  std::memcpy(&bits, from, sizeof bits);
  return part_of(_mm512_set1_epi32(bits), part);
}
#if defined(MNV2_TARGET_AVX512BF16)
template <>
inline Vec multiply_add<bfloat16>(Vec a, Vec b, Vec sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif
// Two rows of bfloat16, side by side; `second` may be null: zeros.
inline void store_pairs(Pair* to, const bfloat16* row, const bfloat16* second, int count) {
  const auto lanes = [&](const bfloat16* from) {
    return _mm512_cvtepu16_epi32(count == LANES ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                                                : _mm256_maskz_loadu_epi16(first(count), from));
  };
  const __m512i high = second ? _mm512_slli_epi32(lanes(second), 16) : _mm512_setzero_si512();
  const __m512i pairs = _mm512_or_si512(lanes(row), high);
  count == LANES ? _mm512_storeu_si512(to, pairs) : _mm512_mask_storeu_epi32(to, first(count), pairs);
}

#elif defined(MNV2_TARGET_AVX2)

inline Vec part_of(__m256i pairs, int part) {
  return _mm256_castsi256_ps(part == 0 ? _mm256_slli_epi32(pairs, 16)
                                       : _mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
}
inline Vec load_units(const Pair* from, int part) {
  return part_of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), part);
}
inline Vec splat_units(const Pair* from, int part) {
  int bits;
  std::memcpy(&bits, from, sizeof bits);
  return part_of(_mm256_set1_epi32(bits), part);
}
inline void store_pairs(Pair* to, const bfloat16* row, const bfloat16* second, int) {
  const auto lanes = [](const bfloat16* from) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  };
  const __m256i high = second ? _mm256_slli_epi32(lanes(second), 16) : _mm256_setzero_si256();
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_or_si256(lanes(row), high));
}

#else

inline Vec load_units(const Pair* from, int part) { return load_lanes(part == 0 ? &from->first : &from->second, 1); }
inline Vec splat_units(const Pair* from, int part) { return load_units(from, part); }
inline void store_pairs(Pair* to, const bfloat16* row, const bfloat16* second, int) {
  *to = {*row, second ? *second : bfloat16{0}};
}

#endif

inline void store_pairs(float* to, const float* row, const float*, int count) {
  store_lanes(to, load_lanes(row, count), count);
}

template <class T>
void paired(const T* in, int rows, int columns, Unit<T>* out) {
  for (int r = 0; r < rows; r += PER_UNIT<T>, out += columns) {
    const T* const row = in + static_cast<std::ptrdiff_t>(r) * columns;
    const T* const second = r + 1 < rows ? row + columns : nullptr;
    each_vector(columns, [&](int c, int lanes) { store_pairs(out + c, row + c, second ? second + c : second, lanes); });
  }
}

// As tile_rows(), where a product in parts takes a register more.
template <class T>
constexpr int product_rows(int vectors) {
  return tile_rows(vectors) - (PARTS<T> > 1 && LANES == 8);
}

template <class T, int ROWS, int VECTORS>
MNV2_NOINLINE void product_tile(const Product<T>& job, int row, int column) {
  Vec sum[ROWS][VECTORS];
  float* const out = job.out + row * job.out_row + column;
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Vec start = job.start ? load(job.start + column + j * LANES) : zero();
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      sum[i][j] = job.accumulates ? add(start, load(out + i * job.out_row + j * LANES)) : start;
    }
  }
  const std::ptrdiff_t a_row = job.a_row;
  const Unit<T>* a = job.a + row * a_row;
  const Unit<T>* b = job.b + column;
  for (int k = 0; k < job.depth; k++, a += job.a_step, b += job.b_row) {
    MNV2_UNROLL for (int part = 0; part < PARTS<T>; part++) {
      Vec w[VECTORS];
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_units(b + j * LANES, part);
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
        const Vec value = splat_units(a + i * a_row, part);
        MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = multiply_add<T>(value, w[j], sum[i][j]);
      }
      if (PARTS<T> > 1) read_again();
    }
  }
  const Vec six = splat(6.0f);
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const Vec value = job.relu6 ? lowest(highest(sum[i][j], zero()), six) : sum[i][j];
      store(out + i * job.out_row + j * LANES, value);
    }
  }
}

// The last rows, fewer than a full tile.
template <class T, int ROWS, int VECTORS>
inline void last_product_tile(const Product<T>& job, int row, int column) {
  if constexpr (ROWS > 0) {
    if (job.rows - row == ROWS) {
      product_tile<T, ROWS, VECTORS>(job, row, column);
    } else {
      last_product_tile<T, ROWS - 1, VECTORS>(job, row, column);
    }
  }
}

template <class T, int VECTORS>
inline void product_columns(const Product<T>& job, int column) {
  constexpr int ROWS = product_rows<T>(VECTORS);
  int row = 0;
  for (; row + ROWS <= job.rows; row += ROWS) product_tile<T, ROWS, VECTORS>(job, row, column);
  last_product_tile<T, ROWS - 1, VECTORS>(job, row, column);
}

template <class T>
void product(const Product<T>& job) {
  int column = 0;
  for (; column + 2 * LANES <= job.columns; column += 2 * LANES) product_columns<T, 2>(job, column);
  if (column < job.columns) product_columns<T, 1>(job, column);
}

template <class T>
constexpr Passes<T> all_passes() {
  return {sums<T>,
          normalise<T>,
          gradient_sums<T, T>,
          gradient<T, T>,
          depthwise<T>,
          depthwise_gradient<T>,
          LANES,
          GROUP,
          product<T>,
          paired<T>,
          centred<T>,
          stored<T>,
          gradient_sums<float, T>,
          gradient<float, T>,
          clip<T>};
}

}  // namespace
}  // namespace MNV2_NAMESPACE

#if defined(MNV2_TABLE)
const Passes<float> MNV2_TABLE = MNV2_NAMESPACE::all_passes<float>();
#endif
const Passes<bfloat16> MNV2_BFLOAT16_TABLE = MNV2_NAMESPACE::all_passes<bfloat16>();

}  // namespace mobilenetv2
