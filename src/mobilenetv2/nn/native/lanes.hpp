// Vectors of float and bfloat16 maps, and loops over channels. Included once per target by passes_body.hpp.
#pragma once

#include <cstring>

#include "../../runtime/native/simd.hpp"
#include "passes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int GROUP = LANES == 16 ? 32 : 16;

// Loads and stores of `count` lanes, which is LANES, or 8 of 16. Float to bfloat16 rounds to nearest even.
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
// `value` where 0 < at < 6, otherwise 0.
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

// Calls body(channel, channels, Size<V>) for groups of V = 4 vectors, then of 2 and 1 for the rest.
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

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
