// The vocabulary of simd.hpp for bytes and 32-bit integers. A target gives: Ints, load_ints, splat_ints, store_ints and
// store_some_ints, load_weights (4 signed bytes a lane), splat_quad (4 bytes to all lanes), dot (sum + the products of
// four bytes and four signed bytes, exactly), to_floats, to_ints (to the nearest even), add_ints, load_byte_ints (a
// byte a lane), store_bytes and store_some_bytes (of values within 0..255); and doubles: Wide, to_wide, to_ints (whole
// numbers), to_ints_cut (what is behind the point is left out), load_wide, splat_wide, add, mul, down (to the whole
// number below) and half_away (to the nearest, halves away from zero).
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

#if defined(MNV2_TARGET_AVX512)

using Ints = __m512i;
inline Ints load_ints(const std::int32_t* from) { return _mm512_loadu_si512(from); }
inline Ints load_weights(const std::int8_t* from) { return _mm512_loadu_si512(from); }
inline Ints splat_ints(int value) { return _mm512_set1_epi32(value); }
inline Ints splat_quad(const std::uint8_t* from) {
  int quad;
  __builtin_memcpy(&quad, from, 4);
  return _mm512_set1_epi32(quad);
}
inline Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
#if defined(MNV2_VNNI)
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
inline Ints to_ints_cut(Wide value) {
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

#elif defined(MNV2_TARGET_AVX2)

using Ints = __m256i;
inline Ints load_ints(const std::int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Ints load_weights(const std::int8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Ints splat_ints(int value) { return _mm256_set1_epi32(value); }
inline Ints splat_quad(const std::uint8_t* from) {
  int quad;
  __builtin_memcpy(&quad, from, 4);
  return _mm256_set1_epi32(quad);
}
inline Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
#if defined(MNV2_VNNI)
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
  __builtin_memcpy(&bytes, from, static_cast<std::size_t>(count < LANES ? count : LANES));
  return _mm_cvtsi64_si128(bytes);
}
inline Ints load_byte_ints(const std::uint8_t* from, int count) {
  return _mm256_cvtepu8_epi32(some_bytes(from, count));
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
  __builtin_memcpy(to, &bytes, static_cast<std::size_t>(count < 0 ? 0 : count));
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
inline Ints to_ints_cut(Wide value) {
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

#else

using Ints = std::int32_t;
inline Ints load_ints(const std::int32_t* from) { return *from; }
inline Ints load_weights(const std::int8_t* from) {
  Ints quad;
  __builtin_memcpy(&quad, from, 4);
  return quad;
}
inline Ints splat_ints(int value) { return value; }
inline Ints splat_quad(const std::uint8_t* from) {
  Ints quad;
  __builtin_memcpy(&quad, from, 4);
  return quad;
}
inline Ints add_ints(Ints a, Ints b) { return a + b; }
inline Ints dot(Ints sum, Ints bytes, Ints weights) {
  for (int i = 0; i < 4; i++) {
    sum += static_cast<std::uint8_t>(bytes >> (8 * i)) * static_cast<std::int8_t>(weights >> (8 * i));
  }
  return sum;
}
inline Vec to_floats(Ints value) { return static_cast<float>(value); }
inline Ints to_ints(Vec value) { return static_cast<Ints>(__builtin_lrintf(value)); }
inline Ints load_byte_ints(const std::uint8_t* from, int) { return *from; }
inline void store_ints(std::int32_t* to, Ints value) { *to = value; }
inline void store_some_ints(std::int32_t* to, Ints value, int) { *to = value; }
inline void store_bytes(std::uint8_t* to, Ints value) { *to = static_cast<std::uint8_t>(value); }
inline void store_some_bytes(std::uint8_t* to, Ints value, int count) {
  if (count > 0) *to = static_cast<std::uint8_t>(value);
}
struct Wide {
  double value;
};
inline Wide to_wide(Ints value) { return {static_cast<double>(value)}; }
inline Ints to_ints(Wide value) { return static_cast<Ints>(__builtin_lrint(value.value)); }
inline Ints to_ints_cut(Wide value) { return static_cast<Ints>(value.value); }
inline Wide load_wide(const double* from) { return {*from}; }
inline Wide splat_wide(double value) { return {value}; }
inline Wide add(Wide a, Wide b) { return {a.value + b.value}; }
inline Wide mul(Wide a, Wide b) { return {a.value * b.value}; }
inline Wide down(Wide value) { return {__builtin_floor(value.value)}; }
inline Wide half_away(Wide value) { return {__builtin_trunc(value.value + __builtin_copysign(0.5, value.value))}; }

#endif

inline Ints in_register(Ints value) {
#if defined(MNV2_TARGET_AVX512)
  asm("" : "+v"(value));
#elif defined(MNV2_TARGET_AVX2)
  asm("" : "+x"(value));
#elif defined(__GNUC__)
  asm("" : "+r"(value));
#endif
  return value;
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
