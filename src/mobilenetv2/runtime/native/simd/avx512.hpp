// The vocabulary of simd.hpp for AVX-512 (F, BW, DQ, VL), with VNNI where the compiler's flags have it.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../dialect.hpp"
#include "../kernels.hpp"
#include "../store_order.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

using Vec = __m512;
constexpr int LANES = 16;
constexpr int PANEL_VECTORS = 4;
constexpr int tile_rows(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 14; }  // of 32
#define MNV2_BYTE_TILE_ROWS
constexpr int byte_tile_rows(int vectors) { return vectors == 4 ? 6 : vectors == 2 ? 12 : 8; }

inline __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline Vec load_some(const float* from, int count) { return _mm512_maskz_loadu_ps(first(count), from); }
using Mask = __mmask16;
inline Mask mask_if(bool on) { return static_cast<Mask>(-static_cast<int>(on)); }
inline Vec load_if(Mask mask, const float* from) { return _mm512_maskz_loadu_ps(mask, from); }
inline void store(float* to, Vec value) { _mm512_storeu_ps(to, value); }
inline void store_some(float* to, Vec value, int count) { _mm512_mask_storeu_ps(to, first(count), value); }
inline Vec splat(float value) { return _mm512_set1_ps(value); }
inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec whole(Vec value) { return _mm512_roundscale_ps(value, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
inline Vec if_greater(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
inline bool any_greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
inline Vec nearest(Vec value) { return _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec off_whole(Vec value) { return _mm512_reduce_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec larger_magnitude(Vec a, Vec b) { return _mm512_range_ps(a, b, 0x0b); }
inline Vec with_sign(Vec value, Vec of) { return _mm512_or_ps(value, _mm512_and_ps(of, _mm512_set1_ps(-0.0f))); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec lowest(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec highest(Vec a, Vec b) { return _mm512_max_ps(a, b); }

// Half of a vector of floats: a multiply-add of 256 bits takes half of one of 512.
#define MNV2_FLOAT_HALVES
using HalfVec = __m256;
inline __mmask8 first_of_half(int count) { return static_cast<__mmask8>((1u << count) - 1u); }
inline HalfVec load_half(const float* from) { return _mm256_loadu_ps(from); }
inline HalfVec load_some_half(const float* from, int count) {
  return _mm256_maskz_loadu_ps(first_of_half(count), from);
}
inline HalfVec splat_half(float value) { return _mm256_set1_ps(value); }
inline void store(float* to, HalfVec value) { _mm256_storeu_ps(to, value); }
inline void store_some(float* to, HalfVec value, int count) { _mm256_mask_storeu_ps(to, first_of_half(count), value); }
inline HalfVec fma(HalfVec a, HalfVec b, HalfVec c) { return _mm256_fmadd_ps(a, b, c); }
inline HalfVec add(HalfVec a, HalfVec b) { return _mm256_add_ps(a, b); }
inline HalfVec lowest(HalfVec a, HalfVec b) { return _mm256_min_ps(a, b); }
inline HalfVec highest(HalfVec a, HalfVec b) { return _mm256_max_ps(a, b); }

using Ints = __m512i;
inline Ints load_ints(const std::int32_t* from) { return _mm512_loadu_si512(from); }
inline Ints load_weights(const std::int8_t* from) { return _mm512_loadu_si512(from); }
inline Ints splat_ints(int value) { return _mm512_set1_epi32(value); }
inline Ints splat_quad(const std::uint8_t* from) {
  int quad;
  std::memcpy(&quad, from, 4);
  return _mm512_set1_epi32(quad);
}
inline Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
#if defined(__AVX512VNNI__)
inline Ints dot(Ints sum, Ints bytes, Ints weights) { return _mm512_dpbusd_epi32(sum, bytes, weights); }
#else
inline Ints dot(Ints sum, Ints bytes, Ints weights) {  // in halves of 16 bits: no sum of two products is cut off
  const Ints even = _mm512_madd_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(255)),
                                      _mm512_srai_epi16(_mm512_slli_epi16(weights, 8), 8));
  const Ints odd = _mm512_madd_epi16(_mm512_srli_epi16(bytes, 8), _mm512_srai_epi16(weights, 8));
  return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
}
#endif
inline Vec to_floats(Ints value) { return _mm512_cvtepi32_ps(value); }
inline Ints to_ints(Vec value) { return _mm512_cvtps_epi32(value); }
inline Ints load_byte_ints(const std::uint8_t* from, int count) {
  return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), from));
}
inline Ints load_quads(const std::uint8_t* from, int count) { return _mm512_maskz_loadu_epi32(first(count), from); }
inline int sum_lanes(Ints value) { return _mm512_reduce_add_epi32(value); }
inline void store_ints(std::int32_t* to, Ints value) { _mm512_storeu_si512(to, value); }
inline void store_some_ints(std::int32_t* to, Ints value, int count) {
  _mm512_mask_storeu_epi32(to, first(count), value);
}
inline void store_bytes(std::uint8_t* to, Ints value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(value));
}
inline void store_some_bytes(std::uint8_t* to, Ints value, int count) {
  _mm512_mask_cvtepi32_storeu_epi8(to, first(count), value);
}
// Doubles, two vectors for one of Ints.
struct Wide {
  __m512d half[2];
};
inline Wide to_wide(Ints value) {
  return {{_mm512_cvtepi32_pd(_mm512_castsi512_si256(value)), _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(value, 1))}};
}
inline Ints to_ints(Wide value) {
  const __m512i low = _mm512_castsi256_si512(_mm512_cvtpd_epi32(value.half[0]));
  return _mm512_inserti64x4(low, _mm512_cvtpd_epi32(value.half[1]), 1);
}
inline Ints truncate(Wide value) {
  const __m512i low = _mm512_castsi256_si512(_mm512_cvttpd_epi32(value.half[0]));
  return _mm512_inserti64x4(low, _mm512_cvttpd_epi32(value.half[1]), 1);
}
inline Wide load_wide(const double* from) { return {{_mm512_loadu_pd(from), _mm512_loadu_pd(from + 8)}}; }
inline Wide splat_wide(double value) { return {{_mm512_set1_pd(value), _mm512_set1_pd(value)}}; }
inline Wide add(Wide a, Wide b) { return {{_mm512_add_pd(a.half[0], b.half[0]), _mm512_add_pd(a.half[1], b.half[1])}}; }
inline Wide mul(Wide a, Wide b) { return {{_mm512_mul_pd(a.half[0], b.half[0]), _mm512_mul_pd(a.half[1], b.half[1])}}; }
inline __m512d down(__m512d value) { return _mm512_roundscale_pd(value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline Wide down(Wide value) { return {{down(value.half[0]), down(value.half[1])}}; }
inline __m512d half_away(__m512d value) {
  const __m512d sign = _mm512_and_pd(value, _mm512_set1_pd(-0.0));
  value = _mm512_add_pd(value, _mm512_or_pd(sign, _mm512_set1_pd(0.5)));
  return _mm512_roundscale_pd(value, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}
inline Wide half_away(Wide value) { return {{half_away(value.half[0]), half_away(value.half[1])}}; }

// Keeps GCC from reading memory once for every use of a value: two loads of 64 bytes a cycle are more than cores do.
inline Vec in_register(Vec value) {
  MNV2_IN_REGISTER("v", value);
  return value;
}
inline Ints in_register(Ints value) {
  MNV2_IN_REGISTER("v", value);
  return value;
}

// Storing bytes one vector at a time keeps the low byte of each lane.
constexpr bool STORE_CLAMPS = false;
constexpr bool has_interleaved(int vectors) { return vectors != 3; }

inline Ints quad_of(Ints bytes, int vector) {  // bytes 4 * vector to 4 * vector + 3 of each 128 bits
  const Ints pattern = _mm512_broadcast_i32x4(_mm_setr_epi32(0xffffff00, 0xffffff01, 0xffffff02, 0xffffff03));
  return _mm512_shuffle_epi8(bytes, _mm512_add_epi8(pattern, _mm512_set1_epi32(4 * vector)));
}

template <>
struct Interleaved<4> {
  static constexpr bool CLAMPS = true;
  static constexpr int PIXELS_TOGETHER = 1;
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    const __mmask64 in_use = channels >= 64 ? ~0ull : (1ull << channels) - 1;
    return quad_of(_mm512_maskz_loadu_epi8(in_use, from), vector);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][4], const TileOut& to) {
    const __mmask64 in_use = to.channels >= 64 ? ~0ull : (1ull << to.channels) - 1;
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      const Ints packed = _mm512_packus_epi16(_mm512_packs_epi32(bytes[i][0], bytes[i][1]),
                                              _mm512_packs_epi32(bytes[i][2], bytes[i][3]));
      std::uint8_t* const out = to.out + i * to.pixel;
      if (to.block == BLOCK) {
        _mm512_mask_storeu_epi8(out, in_use, packed);
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(packed));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + to.block), _mm512_extracti32x4_epi32(packed, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * to.block), _mm512_extracti32x4_epi32(packed, 2));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * to.block), _mm512_extracti32x4_epi32(packed, 3));
      }
    }
  }
};

template <>
struct Interleaved<1> {  // four pixels at a time, channels in order
  static constexpr bool CLAMPS = true;
  static constexpr int PIXELS_TOGETHER = 4;
  static Ints shortcut(const std::uint8_t* from, int, int channels) {
    return load_byte_ints(from, channels < LANES ? channels : LANES);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][1], const TileOut& to) {
    const __mmask16 in_use = to.channels >= LANES ? 0xffff : first(to.channels);
    const Ints order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    MNV2_UNROLL for (int i = 0; i < ROWS; i += 4) {
      const Ints last = bytes[ROWS - 1][0];
      const Ints second = i + 1 < ROWS ? bytes[i + 1][0] : last, third = i + 2 < ROWS ? bytes[i + 2][0] : last;
      const Ints fourth = i + 3 < ROWS ? bytes[i + 3][0] : last;
      const Ints four = _mm512_packus_epi16(_mm512_packs_epi32(bytes[i][0], second), _mm512_packs_epi32(third, fourth));
      const Ints sorted = _mm512_permutexvar_epi32(order, four);
      std::uint8_t* const out = to.out + i * to.pixel;
      if (i + 4 <= ROWS && to.pixel == LANES && to.channels >= LANES) {
        _mm512_storeu_si512(out, sorted);
        continue;
      }
      _mm_mask_storeu_epi8(out, in_use, _mm512_castsi512_si128(sorted));
      if (i + 1 < ROWS) _mm_mask_storeu_epi8(out + to.pixel, in_use, _mm512_extracti32x4_epi32(sorted, 1));
      if (i + 2 < ROWS) _mm_mask_storeu_epi8(out + 2 * to.pixel, in_use, _mm512_extracti32x4_epi32(sorted, 2));
      if (i + 3 < ROWS) _mm_mask_storeu_epi8(out + 3 * to.pixel, in_use, _mm512_extracti32x4_epi32(sorted, 3));
    }
  }
};

template <>
struct Interleaved<2> {
  static constexpr bool CLAMPS = true;
  static constexpr int PIXELS_TOGETHER = 2;
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    const __mmask32 in_use = channels >= 32 ? ~0u : (1u << channels) - 1;
    const Ints spread = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3),
                                                 _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(in_use, from)));
    return quad_of(spread, vector);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][2], const TileOut& to) {
    const __mmask32 in_use = to.channels >= 32 ? ~0u : (1u << to.channels) - 1;
    const auto put = [&](int i, __m256i pixel) {
      std::uint8_t* const out = to.out + i * to.pixel;
      if (to.block == BLOCK) {
        _mm256_mask_storeu_epi8(out, in_use, pixel);
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(pixel));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + to.block), _mm256_extracti128_si256(pixel, 1));
      }
    };
    MNV2_UNROLL for (int i = 0; i < ROWS; i += 2) {
      const int next = i + 1 < ROWS ? i + 1 : i;
      const Ints pair = _mm512_packus_epi16(_mm512_packs_epi32(bytes[i][0], bytes[i][1]),
                                            _mm512_packs_epi32(bytes[next][0], bytes[next][1]));
      const Ints sorted = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), pair);
      put(i, _mm512_castsi512_si256(sorted));
      if (next > i) put(next, _mm512_extracti64x4_epi64(sorted, 1));
    }
  }
};

// Bytes of 16 channels and some pixels: a vector of PIXELS pixels.
#define MNV2_PIXEL_VECTORS
constexpr int QUADS = 4;  // of channels in a block
constexpr int PIXELS = LANES / 4;
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

// Half of a vector. Not without VNNI, where a product is many instructions.
#if defined(__AVX512VNNI__)
#define MNV2_HALVES
using HalfInts = __m256i;
inline HalfInts first_half(Ints value) { return _mm512_castsi512_si256(value); }
inline Ints whole_of(HalfInts half) { return _mm512_zextsi256_si512(half); }
inline HalfInts load_half_weights(const std::int8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline HalfInts half_dot(HalfInts sum, HalfInts bytes, HalfInts weights) {
  return _mm256_dpbusd_epi32(sum, bytes, weights);
}
#endif

// Tensors in fours.
#define MNV2_FOURS
constexpr int FOURS_VECTORS = 3;
constexpr int FOURS_ROWS = 8;
using FourMask = __mmask64;
inline FourMask four_mask(int count) {
  return count <= 0 ? 0 : (0x1111111111111111ull << (count < FOUR ? count : FOUR)) - 0x1111111111111111ull;
}
inline Ints load_four(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
inline Ints load_some_four(const std::uint8_t* from, FourMask inside, Ints outside) {
  return _mm512_mask_loadu_epi8(outside, inside, from);
}
inline Ints halves_swapped(Ints pixels) { return _mm512_rol_epi32(pixels, 16); }
inline Ints across(Ints first, Ints last) { return _mm512_mask_blend_epi16(0xaaaaaaaa, first, last); }
inline Ints later_taps(Ints weights) { return _mm512_slli_epi32(weights, 8); }
inline Ints packed(Ints a, Ints b, Ints c, Ints d) {
  return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
}
inline void store_four(std::uint8_t* to, Ints a, Ints b, Ints c, Ints d) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(to, _mm512_shuffle_epi8(packed(a, b, c, d), _mm512_broadcast_i32x4(order)));
}
inline void store_four_pixels(std::uint8_t* to, const Ints (&pixels)[FOUR], int count) {
  const Ints order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const Ints bytes = _mm512_permutexvar_epi32(order, packed(pixels[0], pixels[1], pixels[2], pixels[3]));
  if (count >= FOUR) {
    _mm512_storeu_si512(to, bytes);
  } else {
    _mm512_mask_storeu_epi8(to, (1ull << (BLOCK * count)) - 1, bytes);
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2

#include "one_step.hpp"
