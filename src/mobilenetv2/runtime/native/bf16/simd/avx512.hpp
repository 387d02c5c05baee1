// The vocabulary of pairs.hpp for AVX-512 with BF16.
#pragma once

#include "../../kernels.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

inline Vec widened(__m256i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)); }
inline Vec load(const bfloat16* from) { return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
inline Vec load_some(const bfloat16* from, int count) { return widened(_mm256_maskz_loadu_epi16(first(count), from)); }
inline __m256i rounded(Vec value) { return (__m256i)_mm512_cvtneps_pbh(value); }
inline void store(bfloat16* to, Vec value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(value)); }
inline void store_some(bfloat16* to, Vec value, int count) {
  _mm256_mask_storeu_epi16(to, first(count), rounded(value));
}

using Pairs = __m512i;
// Of the halves of a vector, one pair per lane.
inline Pairs interleaved(__m512i halves) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}
inline Pairs join(Vec first, Vec second) { return interleaved((__m512i)_mm512_cvtne2ps_pbh(second, first)); }
using PairMask = __mmask32;
inline PairMask pair_mask_if(bool first, bool second) {
  return static_cast<PairMask>((first ? 0xffffu : 0u) | (second ? 0xffff0000u : 0u));
}
inline Pairs join_pixels_if(PairMask mask, const bfloat16* from) {
  return interleaved(_mm512_maskz_loadu_epi16(mask, from));
}
inline Pairs join_pixels(const bfloat16* from) { return interleaved(_mm512_loadu_si512(from)); }
inline Pairs load_pairs(const bfloat16* from) { return _mm512_loadu_si512(from); }
inline Pairs splat_pair(const bfloat16* from) {
  int pair;
  std::memcpy(&pair, from, 4);
  return _mm512_set1_epi32(pair);
}
inline Pairs splat_first(const bfloat16* from) { return _mm512_set1_epi32(from->bits); }
inline Vec dot(Vec sum, Pairs a, Pairs b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

// Non-negative numbers are in order as integers of 16 bits, and negative ones are below all of them.
struct Limits {
  __m512i low, high;
};
inline Limits make_limits(float low, float high) {
  return {_mm512_set1_epi16(static_cast<short>(from_float<bfloat16>(low < 0 ? -0.0f : low).bits)),
          _mm512_set1_epi16(static_cast<short>(from_float<bfloat16>(high).bits))};
}
inline void store_two(bfloat16* to, Vec first, Vec second, const Limits& limits) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  _mm512_storeu_si512(to, _mm512_min_epi16(_mm512_max_epi16(both, limits.low), limits.high));
}
inline void store_one(bfloat16* to, Vec value, const Limits& limits) {
  const __m256i low = _mm512_castsi512_si256(limits.low), high = _mm512_castsi512_si256(limits.high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_min_epi16(_mm256_max_epi16(rounded(value), low), high));
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
