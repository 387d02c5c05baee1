// The 3x3 depthwise convolution over bytes, for the target that MNV2_NAMESPACE names. The three rows of a column are
// interleaved with zeros, so that one dot product a column is three taps of a channel; a vector holds 4 channels of
// some pixels, and packing the four vectors of a block brings its channels back in order.
#pragma once

#include "int8_matmul.hpp"
#include "int8_simd.hpp"
#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr std::ptrdiff_t ROW_WEIGHTS = 4 * BLOCK;

#if defined(MNV2_TARGET_AVX512) || defined(MNV2_TARGET_AVX2)

constexpr int QUADS = 4;  // of channels in a block
constexpr int PIXELS = LANES / 4;

#if defined(MNV2_TARGET_AVX512)
inline Vec load_quad(const float* from) { return _mm512_broadcast_f32x4(_mm_loadu_ps(from)); }
inline Ints load_quad(const void* from) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(from)));
}
inline Wide load_quad(const double* from) {
  const __m512d four = _mm512_broadcast_f64x4(_mm256_loadu_pd(from));
  return {{four, four}};
}
inline Ints splat_byte(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
using PixelMask = __mmask64;
// Of pixels low to high - 1.
inline PixelMask pixel_mask(int low, int high) {
  if (low >= high) return 0;
  return (high >= PIXELS ? ~0ull : (1ull << (16 * high)) - 1) & ~((1ull << (16 * low)) - 1);
}
inline Ints load_pixels(const std::uint8_t* from, PixelMask inside, Ints outside) {
  return _mm512_mask_loadu_epi8(outside, inside, from);
}
inline Ints even_pixels(Ints a, Ints b) { return _mm512_shuffle_i64x2(a, b, 0x88); }
inline Ints odd_pixels(Ints a, Ints b) { return _mm512_shuffle_i64x2(a, b, 0xdd); }
inline void interleave(const Ints (&column)[3], Ints (&quads)[QUADS]) {
  const Ints none = _mm512_setzero_si512();
  const Ints low = _mm512_unpacklo_epi8(column[0], column[1]), high = _mm512_unpackhi_epi8(column[0], column[1]);
  const Ints low_third = _mm512_unpacklo_epi8(column[2], none), high_third = _mm512_unpackhi_epi8(column[2], none);
  quads[0] = _mm512_unpacklo_epi16(low, low_third);
  quads[1] = _mm512_unpackhi_epi16(low, low_third);
  quads[2] = _mm512_unpacklo_epi16(high, high_third);
  quads[3] = _mm512_unpackhi_epi16(high, high_third);
}
inline void store_pixels(std::uint8_t* to, const Ints (&quads)[QUADS], int count) {
  const Ints bytes =
      _mm512_packus_epi16(_mm512_packs_epi32(quads[0], quads[1]), _mm512_packs_epi32(quads[2], quads[3]));
  if (count >= PIXELS) {
    _mm512_storeu_si512(to, bytes);
  } else {
    _mm512_mask_storeu_epi8(to, (1ull << (16 * count)) - 1, bytes);
  }
}
#else
inline Vec load_quad(const float* from) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from)); }
inline Ints load_quad(const void* from) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(from)));
}
inline Wide load_quad(const double* from) {
  const __m256d four = _mm256_loadu_pd(from);
  return {{four, four}};
}
inline Ints splat_byte(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
struct PixelMask {
  bool first, second;
};
// Of pixels low to high - 1.
inline PixelMask pixel_mask(int low, int high) { return {low <= 0 && high > 0, low <= 1 && high > 1}; }
inline Ints load_pixels(const std::uint8_t* from, PixelMask inside, Ints outside) {
  const __m128i* const pixels = reinterpret_cast<const __m128i*>(from);
  if (inside.first && inside.second) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  if (inside.first) return _mm256_inserti128_si256(outside, _mm_loadu_si128(pixels), 0);
  return inside.second ? _mm256_inserti128_si256(outside, _mm_loadu_si128(pixels + 1), 1) : outside;
}
inline Ints even_pixels(Ints a, Ints b) { return _mm256_permute2x128_si256(a, b, 0x20); }
inline Ints odd_pixels(Ints a, Ints b) { return _mm256_permute2x128_si256(a, b, 0x31); }
inline void interleave(const Ints (&column)[3], Ints (&quads)[QUADS]) {
  const Ints none = _mm256_setzero_si256();
  const Ints low = _mm256_unpacklo_epi8(column[0], column[1]), high = _mm256_unpackhi_epi8(column[0], column[1]);
  const Ints low_third = _mm256_unpacklo_epi8(column[2], none), high_third = _mm256_unpackhi_epi8(column[2], none);
  quads[0] = _mm256_unpacklo_epi16(low, low_third);
  quads[1] = _mm256_unpackhi_epi16(low, low_third);
  quads[2] = _mm256_unpacklo_epi16(high, high_third);
  quads[3] = _mm256_unpackhi_epi16(high, high_third);
}
inline void store_pixels(std::uint8_t* to, const Ints (&quads)[QUADS], int count) {
  const Ints bytes =
      _mm256_packus_epi16(_mm256_packs_epi32(quads[0], quads[1]), _mm256_packs_epi32(quads[2], quads[3]));
  if (count >= PIXELS) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(bytes));
  }
}
#endif

// The columns that PIXELS outputs side by side read: where they lie, and which of them lie inside the image.
template <int STRIDE>
struct Columns {
  std::ptrdiff_t at[3];
  PixelMask inside[3][STRIDE];

  Columns(const Depthwise<std::uint8_t>& job, int x) {
    for (int j = 0; j < 3; j++) {
      const int column = x * STRIDE - job.left + j * job.dilation;
      at[j] = static_cast<std::ptrdiff_t>(column) * BLOCK;
      for (int part = 0; part < STRIDE; part++) {
        const int first = column + part * PIXELS, room = job.in_width - first;
        inside[j][part] = pixel_mask(first < 0 ? -first : 0, room < PIXELS ? room : PIXELS);
      }
    }
  }

  // Interleaves a row from its block on; null if it lies outside.
  void read(const std::uint8_t* row, Ints outside, bool together, Ints (&quads)[QUADS]) const {
    Ints column[3] = {outside, outside, outside};
    if (row) {
      const auto load = [&](int j, int part) {
        return load_pixels(row + at[j] + part * PIXELS * BLOCK, inside[j][part], outside);
      };
      if constexpr (STRIDE == 1) {
        MNV2_UNROLL for (int j = 0; j < 3; j++) column[j] = load(j, 0);
      } else {
        const Ints a = load(0, 0), b = load(0, 1);
        column[0] = even_pixels(a, b);
        column[1] = together ? odd_pixels(a, b) : even_pixels(load(1, 0), load(1, 1));
        column[2] = even_pixels(load(2, 0), load(2, 1));
      }
    }
    interleave(column, quads);
  }
};

// SIMPLE: results are rounded once, and packing limits them to 0..255.
template <int STRIDE, int COPIES, bool SIMPLE>
MNV2_NOINLINE void byte_channels(const Depthwise<std::uint8_t>& job, int block) {
  const Requantize& to = job.requantize;
  const Ints outside = splat_byte(job.zero), zero = splat_ints(to.zero);
  const bool together = job.dilation == 1;  // columns and rows touch
  const std::ptrdiff_t at = block * job.in_block;
  Ints weights[COPIES][3][QUADS];
  MNV2_UNROLL for (int copy = 0; copy < COPIES; copy++) {
    MNV2_UNROLL for (int i = 0; i < 3; i++) {
      MNV2_UNROLL for (int q = 0; q < QUADS; q++) {
        const std::int8_t* const from = job.weights + block * job.weight_block + (3 * copy + i) * ROW_WEIGHTS + 16 * q;
        weights[copy][i][q] = load_quad(static_cast<const void*>(from));
      }
    }
  }
  for (int x = 0; x < job.out_width; x += PIXELS) {
    const Columns<STRIDE> columns(job, x);
    const auto read = [&](int row, Ints(&quads)[QUADS]) {
      columns.read(job.rows[row] ? job.rows[row] + at : nullptr, outside, together, quads);
    };
    std::uint8_t* out = job.out + block * job.out_block + x * BLOCK;
    // Input row r of the job is in rows[r % 3]; three output rows at a time, so that the compiler knows which.
    Ints rows[3][QUADS];
    if (together) {
      MNV2_UNROLL for (int i = 0; i < 3 - STRIDE; i++) read(i, rows[i]);
    }
    for (int begin = 0; begin < job.out_rows; begin += 3) {
      MNV2_UNROLL for (int phase = 0; phase < 3; phase++) {
        const int y = begin + phase;
        if (y >= job.out_rows) break;
        if (together) {
          MNV2_UNROLL for (int i = 3 - STRIDE; i < 3; i++) read(y * STRIDE + i, rows[(phase * STRIDE + i) % 3]);
        } else {
          MNV2_UNROLL for (int i = 0; i < 3; i++) {
            read(y * STRIDE + i * job.dilation, rows[(phase * STRIDE + i) % 3]);
          }
        }
        Ints sum[QUADS];
        MNV2_UNROLL for (int q = 0; q < QUADS; q++) {
          const int channel = block * BLOCK + 4 * q;
          sum[q] = load_quad(static_cast<const void*>(job.bias + channel));
          MNV2_UNROLL for (int copy = 0; copy < COPIES; copy++) {
            MNV2_UNROLL for (int i = 0; i < 3; i++) {
              sum[q] = dot(sum[q], rows[(phase * STRIDE + i) % 3][q], weights[copy][i][q]);
            }
          }
          if constexpr (SIMPLE) {
            sum[q] = to_ints(mul(to_floats(sum[q]), load_quad(to.factor + channel)));
          } else if (to.upward) {
            sum[q] =
                to_ints_cut(add(mul(to_wide(sum[q]), load_quad(to.fraction + channel)), load_quad(to.power + channel)));
          } else {
            const Vec value = to.fraction
                                  ? to_floats(to_ints(rounded_twice(to_wide(sum[q]), load_quad(to.fraction + channel),
                                                                    load_quad(to.power + channel))))
                                  : mul(to_floats(sum[q]), load_quad(to.factor + channel));
            sum[q] = add_ints(to_ints(between(value, job.low, job.high)), zero);
          }
        }
        store_pixels(out + static_cast<std::ptrdiff_t>(y) * job.out_width * BLOCK, sum, job.out_width - x);
      }
    }
  }
}

template <int STRIDE>
inline void byte_channels_of(const Depthwise<std::uint8_t>& job, int block) {
  if (job.copies == 2) {
    byte_channels<STRIDE, 2, false>(job, block);
  } else if (job.requantize.saturating && job.requantize.zero == 0) {
    byte_channels<STRIDE, 1, true>(job, block);
  } else {
    byte_channels<STRIDE, 1, false>(job, block);
  }
}

#endif

// Any stride, one channel of one pixel after another.
void plain_byte_channels(const Depthwise<std::uint8_t>& job, int block) {
  const Requantize& to = job.requantize;
  std::uint8_t* out = job.out + block * job.out_block;
  for (int y = 0; y < job.out_rows; y++) {
    for (int x = 0; x < job.out_width; x++, out += BLOCK) {
      for (int c = 0; c < BLOCK; c++) {
        std::int32_t sum = job.bias[block * BLOCK + c];
        for (int i = 0; i < 3; i++) {
          const std::uint8_t* const row = job.rows[y * job.stride + i * job.dilation];
          for (int j = 0; j < 3; j++) {
            const int column = x * job.stride - job.left + j * job.dilation;
            const bool inside = row && column >= 0 && column < job.in_width;
            const int value = inside ? row[block * job.in_block + column * BLOCK + c] : job.zero;
            for (int copy = 0; copy < job.copies; copy++) {
              sum += value * job.weights[block * job.weight_block + (3 * copy + i) * ROW_WEIGHTS + 4 * c + j];
            }
          }
        }
        const int channel = block * BLOCK + c;
        float value;
        if (to.upward) {
          value = static_cast<float>(__builtin_trunc(sum * to.fraction[channel] + to.power[channel]));
        } else if (to.fraction) {
          const double scaled = __builtin_floor(sum * to.fraction[channel] + 0.5) * to.power[channel];
          value = static_cast<float>(__builtin_trunc(scaled + __builtin_copysign(0.5, scaled)));
        } else {
          value = static_cast<float>(sum) * to.factor[channel];
        }
        value = value < job.low ? job.low : value > job.high ? job.high : value;
        out[c] = static_cast<std::uint8_t>(static_cast<int>(__builtin_lrintf(value)) + to.zero);
      }
    }
  }
}

void depthwise(const Depthwise<std::uint8_t>& job) {
  for (int block = 0; block < job.blocks; block++) {
#if defined(MNV2_TARGET_AVX512) || defined(MNV2_TARGET_AVX2)
    if (job.stride == 1 && job.copies <= 2) {
      byte_channels_of<1>(job, block);
    } else if (job.stride == 2 && job.copies <= 2) {
      byte_channels_of<2>(job, block);
    } else {
      plain_byte_channels(job, block);
    }
#else
    plain_byte_channels(job, block);
#endif
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
