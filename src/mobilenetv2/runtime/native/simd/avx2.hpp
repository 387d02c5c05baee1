// The vocabulary of simd.hpp for AVX2 and FMA, with AVX-VNNI where the compiler's flags have it.
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

using Vec = __m256;
constexpr int LANES = 8;
constexpr int PANEL_VECTORS = 2;
constexpr int tile_rows(int vectors) { return vectors == 2 ? 6 : 12; }  // of 16 registers

inline __m256i first(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load(const float* from) { return _mm256_loadu_ps(from); }
inline Vec load_some(const float* from, int count) { return _mm256_maskload_ps(from, first(count)); }
using Mask = __m256i;
inline Mask mask_if(bool on) { return _mm256_set1_epi32(-static_cast<int>(on)); }
inline Vec load_if(Mask mask, const float* from) { return _mm256_maskload_ps(from, mask); }
inline void store(float* to, Vec value) { _mm256_storeu_ps(to, value); }
inline void store_some(float* to, Vec value, int count) { _mm256_maskstore_ps(to, first(count), value); }
inline Vec splat(float value) { return _mm256_set1_ps(value); }
inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec whole(Vec value) { return _mm256_round_ps(value, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
inline Vec if_greater(Vec a, Vec b, Vec x, Vec y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
inline bool any_greater(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
inline Vec nearest(Vec value) { return _mm256_round_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec off_whole(Vec value) { return _mm256_sub_ps(value, nearest(value)); }
inline Vec larger_magnitude(Vec a, Vec b) {  // of a without a sign
  return _mm256_max_ps(a, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), b));
}
inline Vec with_sign(Vec value, Vec of) { return _mm256_or_ps(value, _mm256_and_ps(of, _mm256_set1_ps(-0.0f))); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec lowest(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec highest(Vec a, Vec b) { return _mm256_max_ps(a, b); }

using Ints = __m256i;
inline Ints load_ints(const std::int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Ints load_weights(const std::int8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Ints splat_ints(int value) { return _mm256_set1_epi32(value); }
inline Ints splat_quad(const std::uint8_t* from) {
  int quad;
  std::memcpy(&quad, from, 4);
  return _mm256_set1_epi32(quad);
}
inline Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
#if defined(__AVXVNNI__)
inline Ints dot(Ints sum, Ints bytes, Ints weights) { return _mm256_dpbusd_avx_epi32(sum, bytes, weights); }
#else
inline Ints dot(Ints sum, Ints bytes, Ints weights) {  // in halves of 16 bits: no sum of two products is cut off
  const Ints even = _mm256_madd_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(255)),
                                      _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
  const Ints odd = _mm256_madd_epi16(_mm256_srli_epi16(bytes, 8), _mm256_srai_epi16(weights, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
#endif
inline Vec to_floats(Ints value) { return _mm256_cvtepi32_ps(value); }
inline Ints to_ints(Vec value) { return _mm256_cvtps_epi32(value); }
inline __m128i some_bytes(const std::uint8_t* from, int count) {
  long long bytes = 0;
  std::memcpy(&bytes, from, static_cast<std::size_t>(count < LANES ? count : LANES));
  return _mm_cvtsi64_si128(bytes);
}
inline Ints load_byte_ints(const std::uint8_t* from, int count) {
  return _mm256_cvtepu8_epi32(some_bytes(from, count));
}
inline Ints load_quads(const std::uint8_t* from, int count) {
  return _mm256_maskload_epi32(reinterpret_cast<const int*>(from), first(count));
}
inline int sum_lanes(Ints value) {
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
  const __m128i pair = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32(pair, 0xb1)));
}
inline void store_ints(std::int32_t* to, Ints value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
inline void store_some_ints(std::int32_t* to, Ints value, int count) {
  _mm256_maskstore_epi32(to, first(count), value);
}
inline __m128i narrowed(Ints value) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
  return _mm_packus_epi16(words, words);
}
inline void store_bytes(std::uint8_t* to, Ints value) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), narrowed(value));
}
inline void store_some_bytes(std::uint8_t* to, Ints value, int count) {
  const long long bytes = _mm_cvtsi128_si64(narrowed(value));
  std::memcpy(to, &bytes, static_cast<std::size_t>(count < 0 ? 0 : count));
}
// Doubles, two vectors for one of Ints.
struct Wide {
  __m256d half[2];
};
inline Wide to_wide(Ints value) {
  return {{_mm256_cvtepi32_pd(_mm256_castsi256_si128(value)), _mm256_cvtepi32_pd(_mm256_extracti128_si256(value, 1))}};
}
inline Ints to_ints(Wide value) {
  return _mm256_set_m128i(_mm256_cvtpd_epi32(value.half[1]), _mm256_cvtpd_epi32(value.half[0]));
}
inline Ints truncate(Wide value) {
  return _mm256_set_m128i(_mm256_cvttpd_epi32(value.half[1]), _mm256_cvttpd_epi32(value.half[0]));
}
inline Wide load_wide(const double* from) { return {{_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)}}; }
inline Wide splat_wide(double value) { return {{_mm256_set1_pd(value), _mm256_set1_pd(value)}}; }
inline Wide add(Wide a, Wide b) { return {{_mm256_add_pd(a.half[0], b.half[0]), _mm256_add_pd(a.half[1], b.half[1])}}; }
inline Wide mul(Wide a, Wide b) { return {{_mm256_mul_pd(a.half[0], b.half[0]), _mm256_mul_pd(a.half[1], b.half[1])}}; }
inline Wide down(Wide value) { return {{_mm256_floor_pd(value.half[0]), _mm256_floor_pd(value.half[1])}}; }
inline __m256d half_away(__m256d value) {
  const __m256d sign = _mm256_and_pd(value, _mm256_set1_pd(-0.0));
  value = _mm256_add_pd(value, _mm256_or_pd(sign, _mm256_set1_pd(0.5)));
  return _mm256_round_pd(value, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}
inline Wide half_away(Wide value) { return {{half_away(value.half[0]), half_away(value.half[1])}}; }

// Keeps GCC from reading memory once for every use of a value.
inline Vec in_register(Vec value) {
  MNV2_IN_REGISTER("x", value);
  return value;
}
inline Ints in_register(Ints value) {
  MNV2_IN_REGISTER("x", value);
  return value;
}

// Storing bytes packs with saturation.
constexpr bool STORE_CLAMPS = true;
constexpr bool has_interleaved(int) { return false; }

// Bytes of 16 channels and some pixels: a vector of PIXELS pixels.
#define MNV2_PIXEL_VECTORS
constexpr int QUADS = 4;  // of channels in a block
constexpr int PIXELS = LANES / 4;
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

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2

#include "one_step.hpp"
