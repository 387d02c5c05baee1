// Matrix products of float or bfloat16 factors with float sums. Included once per target by passes_body.hpp.
#pragma once

#include "lanes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Stops GCC from keeping all factors of a tile in registers from one part to the next.
inline void compiler_barrier() {
#if defined(__GNUC__)
  asm volatile("" : : : "memory");
#endif
}

// Products per factor: the two halves of a pair are multiplied one after the other, unless the target multiplies pairs.
template <class T>
constexpr int PARTS = PER_FACTOR<T>;
#if defined(MNV2_TARGET_AVX512BF16)
template <>
constexpr int PARTS<bfloat16> = 1;
#endif

inline Vec load_factor(const float* from, int) { return load(from); }
inline Vec splat_factor(const float* from, int) { return splat(*from); }
template <class T>
Vec multiply_add(Vec a, Vec b, Vec sum) {
  return fma(a, b, sum);
}

#if defined(MNV2_TARGET_AVX512)

inline Vec part_of(__m512i pairs, int part) {
#if defined(MNV2_TARGET_AVX512BF16)
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
#if defined(MNV2_TARGET_AVX512BF16)
template <>
inline Vec multiply_add<bfloat16>(Vec a, Vec b, Vec sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
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

#elif defined(MNV2_TARGET_AVX2)

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

#else

inline Vec load_factor(const Pair* from, int part) { return load_lanes(part == 0 ? &from->first : &from->second, 1); }
inline Vec splat_factor(const Pair* from, int part) { return load_factor(from, part); }
inline void store_pairs(Pair* to, const bfloat16* row, const bfloat16* second, int) {
  *to = {*row, second ? *second : bfloat16{0}};
}

#endif

inline void store_pairs(float* to, const float* row, const float*, int count) {
  store_lanes(to, load_lanes(row, count), count);
}

template <class T>
void pair_rows(const T* in, int rows, int columns, Factor<T>* out) {
  for (int r = 0; r < rows; r += PER_FACTOR<T>, out += columns) {
    const T* const row = in + static_cast<std::ptrdiff_t>(r) * columns;
    const T* const second = r + 1 < rows ? row + columns : nullptr;
    each_vector(columns, [&](int c, int lanes) { store_pairs(out + c, row + c, second ? second + c : second, lanes); });
  }
}

// As tile_rows(); a product in parts needs one more register.
template <class T>
constexpr int product_rows(int vectors) {
  return tile_rows(vectors) - (PARTS<T> > 1 && LANES == 8);
}

template <class T, int ROWS, int VECTORS>
MNV2_NOINLINE void product_tile(const Product<T>& job, int row, int column) {
  Vec sum[ROWS][VECTORS];
  float* const out = job.out + row * job.out_row + column;
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Vec start = job.start ? load(job.start + column + j * LANES) : zero();
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      sum[i][j] = job.accumulates ? add(start, load(out + i * job.out_row + j * LANES)) : start;
    }
  }
  const std::ptrdiff_t a_row = job.a_row;
  const Factor<T>* a = job.a + row * a_row;
  const Factor<T>* b = job.b + column;
  for (int k = 0; k < job.depth; k++, a += job.a_step, b += job.b_row) {
    MNV2_UNROLL for (int part = 0; part < PARTS<T>; part++) {
      Vec w[VECTORS];
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_factor(b + j * LANES, part);
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
        const Vec value = splat_factor(a + i * a_row, part);
        MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = multiply_add<T>(value, w[j], sum[i][j]);
      }
      if (PARTS<T> > 1) compiler_barrier();
    }
  }
  const Vec six = splat(6.0f);
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const Vec value = job.relu6 ? lowest(highest(sum[i][j], zero()), six) : sum[i][j];
      store(out + i * job.out_row + j * LANES, value);
    }
  }
}

// The last rows, fewer than a full tile.
template <class T, int ROWS, int VECTORS>
inline void last_product_tile(const Product<T>& job, int row, int column) {
  if constexpr (ROWS > 0) {
    if (job.rows - row == ROWS) {
      product_tile<T, ROWS, VECTORS>(job, row, column);
    } else {
      last_product_tile<T, ROWS - 1, VECTORS>(job, row, column);
    }
  }
}

template <class T, int VECTORS>
inline void product_columns(const Product<T>& job, int column) {
  constexpr int ROWS = product_rows<T>(VECTORS);
  int row = 0;
  for (; row + ROWS <= job.rows; row += ROWS) product_tile<T, ROWS, VECTORS>(job, row, column);
  last_product_tile<T, ROWS - 1, VECTORS>(job, row, column);
}

template <class T>
void product(const Product<T>& job) {
  int column = 0;
  for (; column + 2 * LANES <= job.columns; column += 2 * LANES) product_columns<T, 2>(job, column);
  if (column < job.columns) product_columns<T, 1>(job, column);
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
