// The 3x3 depthwise convolution over bytes, for the target that MNV2_NAMESPACE names. The three rows of a column are
// interleaved with zeros, so that one dot product a column is three taps of a channel; a vector holds 4 channels of
// some pixels, and packing the four vectors of a block brings its channels back in order.
#pragma once

#include "integer_matmul.hpp"
#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr std::ptrdiff_t COLUMN_WEIGHTS = 4 * BLOCK;

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
// Pixels low to high - 1 of PIXELS; the others are `otherwise`, and not read.
inline Ints load_pixels(const std::uint8_t* from, int low, int high, Ints otherwise) {
  if (low >= high) return otherwise;
  const unsigned long long below = (1ull << (16 * low)) - 1, above = high >= PIXELS ? ~0ull : (1ull << (16 * high)) - 1;
  return _mm512_mask_loadu_epi8(otherwise, above & ~below, from);
}
inline Ints load_pixels(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
inline Ints even_pixels(Ints a, Ints b) { return _mm512_shuffle_i64x2(a, b, 0x88); }
inline void interleave(const Ints (&row)[3], Ints (&quads)[QUADS]) {
  const Ints none = _mm512_setzero_si512();
  const Ints low = _mm512_unpacklo_epi8(row[0], row[1]), high = _mm512_unpackhi_epi8(row[0], row[1]);
  const Ints low_third = _mm512_unpacklo_epi8(row[2], none), high_third = _mm512_unpackhi_epi8(row[2], none);
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
// Pixels low to high - 1 of PIXELS; the others are `otherwise`, and not read.
inline Ints load_pixels(const std::uint8_t* from, int low, int high, Ints otherwise) {
  if (low <= 0 && high >= 2) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  const __m128i* const pixels = reinterpret_cast<const __m128i*>(from);
  if (low <= 0 && high > 0) otherwise = _mm256_inserti128_si256(otherwise, _mm_loadu_si128(pixels), 0);
  if (low <= 1 && high > 1) otherwise = _mm256_inserti128_si256(otherwise, _mm_loadu_si128(pixels + 1), 1);
  return otherwise;
}
inline Ints load_pixels(const std::uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Ints even_pixels(Ints a, Ints b) { return _mm256_permute2x128_si256(a, b, 0x20); }
inline void interleave(const Ints (&row)[3], Ints (&quads)[QUADS]) {
  const Ints none = _mm256_setzero_si256();
  const Ints low = _mm256_unpacklo_epi8(row[0], row[1]), high = _mm256_unpackhi_epi8(row[0], row[1]);
  const Ints low_third = _mm256_unpacklo_epi8(row[2], none), high_third = _mm256_unpackhi_epi8(row[2], none);
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

// PIXELS pixels of a row, STRIDE apart, from `column` on; those outside the picture are `outside`.
template <int STRIDE>
inline Ints gather(const std::uint8_t* row, int column, int width, Ints outside) {
  const std::uint8_t* const from = row + static_cast<std::ptrdiff_t>(column) * BLOCK;
  const auto load = [&](int skipped) {
    const int left = column + skipped, right = width - left;
    if (left >= 0 && right >= PIXELS) return load_pixels(from + skipped * BLOCK);
    return load_pixels(from + skipped * BLOCK, left < 0 ? -left : 0, right < PIXELS ? right : PIXELS, outside);
  };
  if constexpr (STRIDE == 1) return load(0);
  return even_pixels(load(0), load(PIXELS));
}

template <int STRIDE, int COPIES>
MNV2_NOINLINE void byte_channels(const Depthwise<std::uint8_t>& job, int block) {
  const std::int8_t* const weights = job.weights + block * job.weight_block;
  const Requantize& to = job.requantize;
  const Ints outside = splat_byte(job.zero), zero = splat_ints(to.zero);
  std::uint8_t* out = job.out + block * job.out_block;
  for (int y = 0; y < job.out_rows; y++, out += static_cast<std::ptrdiff_t>(job.out_width) * BLOCK) {
    const std::uint8_t* rows[3];
    for (int i = 0; i < 3; i++) {
      const std::uint8_t* const row = job.rows[y * job.stride + i * job.dilation];
      rows[i] = row ? row + block * job.in_block : nullptr;
    }
    for (int x = 0; x < job.out_width; x += PIXELS) {
      Ints sum[QUADS];
      MNV2_UNROLL for (int q = 0; q < QUADS; q++) sum[q] =
          load_quad(static_cast<const void*>(job.bias + block * BLOCK + 4 * q));
      MNV2_UNROLL for (int j = 0; j < 3; j++) {
        const int column = x * STRIDE - job.left + j * job.dilation;
        Ints row[3], quads[QUADS];
        MNV2_UNROLL for (int i = 0; i < 3; i++) {
          row[i] = rows[i] ? gather<STRIDE>(rows[i], column, job.in_width, outside) : outside;
        }
        interleave(row, quads);
        MNV2_UNROLL for (int copy = 0; copy < COPIES; copy++) {
          MNV2_UNROLL for (int q = 0; q < QUADS; q++) {
            sum[q] = dot(sum[q], quads[q], load_quad(weights + (3 * copy + j) * COLUMN_WEIGHTS + 16 * q));
          }
        }
      }
      MNV2_UNROLL for (int q = 0; q < QUADS; q++) {
        const int channel = block * BLOCK + 4 * q;
        const Vec value = to.fraction
                              ? to_floats(to_ints(rounded_twice(to_wide(sum[q]), load_quad(to.fraction + channel),
                                                                load_quad(to.power + channel))))
                              : mul(to_floats(sum[q]), load_quad(to.factor + channel));
        sum[q] = add_ints(to_ints(between(value, job.low, job.high)), zero);
      }
      store_pixels(out + x * BLOCK, sum, job.out_width - x);
    }
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
              sum += value * job.weights[block * job.weight_block + (3 * copy + j) * COLUMN_WEIGHTS + 4 * c + i];
            }
          }
        }
        const int channel = block * BLOCK + c;
        float value;
        if (to.fraction) {
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
    if (job.stride == 1) {
      job.copies == 1 ? byte_channels<1, 1>(job, block) : byte_channels<1, 2>(job, block);
    } else if (job.stride == 2) {
      job.copies == 1 ? byte_channels<2, 1>(job, block) : byte_channels<2, 2>(job, block);
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
