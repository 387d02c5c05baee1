// Matrix products of float or bfloat16 factors with float sums. Included once per target by passes.cpp.
#pragma once

#include "lanes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Products per factor: the two halves of a pair are multiplied one after the other, unless the target multiplies pairs.
template <class T>
constexpr int PARTS = PER_FACTOR<T>;
template <>
constexpr int PARTS<bfloat16> = MULTIPLIES_PAIRS ? 1 : PER_FACTOR<bfloat16>;

inline Vec load_factor(const float* from, int) { return load(from); }
inline Vec splat_factor(const float* from, int) { return splat(*from); }
template <class T>
Vec multiply_add(Vec a, Vec b, Vec sum) {
  return fma(a, b, sum);
}
template <>
inline Vec multiply_add<bfloat16>(Vec a, Vec b, Vec sum) {
  return multiply_add_pairs(a, b, sum);
}

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
      // Else GCC keeps all factors of a tile in registers from one part to the next.
      if (PARTS<T> > 1) MNV2_COMPILER_BARRIER();
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
