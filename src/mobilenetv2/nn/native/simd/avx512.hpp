// The vocabulary of lanes.hpp for AVX-512, with bfloat16 where the compiler's flags have it.
#pragma once

#include <cstring>

#include "../passes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

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
#if defined(__AVX512BF16__)
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
// `value` where 0 < at < 6, otherwise 0.
inline Vec inside(Vec at, Vec value) {
  const __mmask16 above = _mm512_cmp_ps_mask(at, _mm512_setzero_ps(), _CMP_GT_OQ);
  return _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(above, at, _mm512_set1_ps(6.0f), _CMP_LT_OQ), value);
}

// Whether two bfloat16 pairs are multiplied in one instruction, not one half after the other.
#if defined(__AVX512BF16__)
constexpr bool MULTIPLIES_PAIRS = true;
#else
constexpr bool MULTIPLIES_PAIRS = false;
#endif

inline Vec part_of(__m512i pairs, int part) {
#if defined(__AVX512BF16__)
  (void)part;
  return _mm512_castsi512_ps(pairs);
#else
  return _mm512_castsi512_ps(part == 0 ? _mm512_slli_epi32(pairs, 16)
                                       : _mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
#endif
}
inline Vec load_factor(const Pair* from, int part) { return part_of(_mm512_loadu_si512(from), part); }
inline Vec splat_factor(const Pair* from, int part) {
  int bits;
  std::memcpy(&bits, from, sizeof bits);
  return part_of(_mm512_set1_epi32(bits), part);
}
#if defined(__AVX512BF16__)
inline Vec multiply_add_pairs(Vec a, Vec b, Vec sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#else
inline Vec multiply_add_pairs(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
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

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
