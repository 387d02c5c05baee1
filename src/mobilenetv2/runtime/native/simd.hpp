// A small vector vocabulary: what the kernels are written in. Compiled once a target: MNV2_NAMESPACE names the target's
// namespace, and MNV2_TARGET_* says which of the bodies below it is. All names have internal linkage, so that no two
// targets can share an instruction.
//
// A target gives: Vec, LANES, load, store, load_some and store_some (the first `count` lanes, others read as zero and
// are left alone), Mask, mask_if and load_if (all lanes, or zeros and no access), splat, zero, fma (a * b + c), add,
// mul, lowest, highest; and the shape of its register tile: PANEL_VECTORS (the widest panel of output vectors) and
// tile_rows(vectors), the pixels that go with it.
#pragma once

#if defined(MNV2_TARGET_AVX512) || defined(MNV2_TARGET_AVX2)
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define MNV2_NOINLINE __attribute__((noinline))
#else
#define MNV2_NOINLINE
#endif
#define MNV2_UNROLL _Pragma("GCC unroll 16")

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

#if defined(MNV2_TARGET_AVX512)

using Vec = __m512;
constexpr int LANES = 16;
constexpr int PANEL_VECTORS = 4;
constexpr int tile_rows(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 14; }  // of 32

inline __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline Vec load_some(const float* from, int count) { return _mm512_maskz_loadu_ps(first(count), from); }
using Mask = __mmask16;
inline Mask mask_if(bool wanted) { return static_cast<Mask>(-static_cast<int>(wanted)); }
inline Vec load_if(Mask wanted, const float* from) { return _mm512_maskz_loadu_ps(wanted, from); }
inline void store(float* to, Vec value) { _mm512_storeu_ps(to, value); }
inline void store_some(float* to, Vec value, int count) { _mm512_mask_storeu_ps(to, first(count), value); }
inline Vec splat(float value) { return _mm512_set1_ps(value); }
inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec lowest(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec highest(Vec a, Vec b) { return _mm512_max_ps(a, b); }

#elif defined(MNV2_TARGET_AVX2)

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
inline Mask mask_if(bool wanted) { return _mm256_set1_epi32(-static_cast<int>(wanted)); }
inline Vec load_if(Mask wanted, const float* from) { return _mm256_maskload_ps(from, wanted); }
inline void store(float* to, Vec value) { _mm256_storeu_ps(to, value); }
inline void store_some(float* to, Vec value, int count) { _mm256_maskstore_ps(to, first(count), value); }
inline Vec splat(float value) { return _mm256_set1_ps(value); }
inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec lowest(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec highest(Vec a, Vec b) { return _mm256_max_ps(a, b); }

#else  // scalar: one lane, any compiler

using Vec = float;
constexpr int LANES = 1;
constexpr int PANEL_VECTORS = 4;
constexpr int tile_rows(int vectors) { return vectors >= 3 ? 2 : 4; }

inline Vec load(const float* from) { return *from; }
inline Vec load_some(const float* from, int count) { return count > 0 ? *from : 0.0f; }
using Mask = bool;
inline Mask mask_if(bool wanted) { return wanted; }
inline Vec load_if(Mask wanted, const float* from) { return wanted ? *from : 0.0f; }
inline void store(float* to, Vec value) { *to = value; }
inline void store_some(float* to, Vec value, int count) {
  if (count > 0) *to = value;
}
inline Vec splat(float value) { return value; }
inline Vec zero() { return 0.0f; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec lowest(Vec a, Vec b) { return a < b ? a : b; }
inline Vec highest(Vec a, Vec b) { return a > b ? a : b; }

#endif

// Fetches a cache line into the second-level cache.
inline void prefetch(const void* from) {
#if defined(__GNUC__)
  __builtin_prefetch(from, 0, 2);
#endif
}

// Keeps GCC from reading memory once for every use of a value: two loads of 64 bytes a cycle are more than cores do.
inline Vec in_register(Vec value) {
#if defined(MNV2_TARGET_AVX512)
  asm("" : "+v"(value));
#elif defined(MNV2_TARGET_AVX2)
  asm("" : "+x"(value));
#endif
  return value;
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
