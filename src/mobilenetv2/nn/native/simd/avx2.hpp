// The vocabulary of lanes.hpp for AVX2.
#pragma once

#include <cstring>

#include "../passes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

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

// Whether two bfloat16 pairs are multiplied in one instruction, not one half after the other.
constexpr bool MULTIPLIES_PAIRS = false;

inline Vec multiply_add_pairs(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
inline Vec part_of(__m256i pairs, int part) {
  return _mm256_castsi256_ps(part == 0 ? _mm256_slli_epi32(pairs, 16)
                                       : _mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
}
inline Vec load_factor(const Pair* from, int part) {
  return part_of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), part);
}
inline Vec splat_factor(const Pair* from, int part) {
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

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
