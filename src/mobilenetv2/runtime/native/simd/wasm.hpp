// The vocabulary of simd.hpp for WebAssembly: SIMD128, and relaxed SIMD where the compiler's flags have it.
#pragma once

#include <wasm_simd128.h>

#include <cstddef>
#include <cstdint>

#include "../dialect.hpp"
#include "../kernels.hpp"
#include "../store_order.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

using Vec = v128_t;
constexpr int LANES = 4;
// Engines keep sixteen vectors in registers on x86: eight sums, and what goes into them.
constexpr int PANEL_VECTORS = 2;
constexpr int tile_rows(int vectors) { return vectors == 2 ? 4 : 8; }

inline Vec zero() { return wasm_f32x4_const_splat(0.0f); }
inline Vec load(const float* from) { return wasm_v128_load(from); }
// The first `count` lanes of 32 bits.
inline v128_t load_lanes(const void* from, int count) {
  const unsigned char* const bytes = static_cast<const unsigned char*>(from);
  if (count >= LANES) return wasm_v128_load(bytes);
  if (count == 3) return wasm_v128_load32_lane(bytes + 8, wasm_v128_load64_zero(bytes), 2);
  if (count == 2) return wasm_v128_load64_zero(bytes);
  return count == 1 ? wasm_v128_load32_zero(bytes) : wasm_i32x4_const_splat(0);
}
inline void store_lanes(void* to, v128_t value, int count) {
  unsigned char* const bytes = static_cast<unsigned char*>(to);
  if (count >= LANES) {
    wasm_v128_store(bytes, value);
  } else if (count >= 2) {
    wasm_v128_store64_lane(bytes, value, 0);
    if (count == 3) wasm_v128_store32_lane(bytes + 8, value, 2);
  } else if (count == 1) {
    wasm_v128_store32_lane(bytes, value, 0);
  }
}
inline Vec load_some(const float* from, int count) { return load_lanes(from, count); }
using Mask = bool;
inline Mask mask_if(bool on) { return on; }
inline Vec load_if(Mask mask, const float* from) { return mask ? load(from) : zero(); }
inline void store(float* to, Vec value) { wasm_v128_store(to, value); }
inline void store_some(float* to, Vec value, int count) { store_lanes(to, value, count); }
inline Vec splat(float value) { return wasm_f32x4_splat(value); }
inline Vec add(Vec a, Vec b) { return wasm_f32x4_add(a, b); }
inline Vec sub(Vec a, Vec b) { return wasm_f32x4_sub(a, b); }
inline Vec mul(Vec a, Vec b) { return wasm_f32x4_mul(a, b); }
#if defined(__wasm_relaxed_simd__)
inline Vec fma(Vec a, Vec b, Vec c) { return wasm_f32x4_relaxed_madd(a, b, c); }
#else
inline Vec fma(Vec a, Vec b, Vec c) { return add(mul(a, b), c); }
#endif
// The second operand where one is NaN, as one instruction does on x86.
inline Vec lowest(Vec a, Vec b) { return wasm_f32x4_pmin(b, a); }
inline Vec highest(Vec a, Vec b) { return wasm_f32x4_pmax(b, a); }
inline Vec whole(Vec value) { return wasm_f32x4_trunc(value); }
inline Vec if_greater(Vec a, Vec b, Vec x, Vec y) { return wasm_v128_bitselect(x, y, wasm_f32x4_gt(a, b)); }
inline bool any_greater(Vec a, Vec b) { return wasm_v128_any_true(wasm_f32x4_gt(a, b)); }
inline Vec nearest(Vec value) { return wasm_f32x4_nearest(value); }
inline Vec off_whole(Vec value) { return sub(value, nearest(value)); }
inline Vec larger_magnitude(Vec a, Vec b) { return highest(a, wasm_f32x4_abs(b)); }
inline Vec with_sign(Vec value, Vec of) {
  return wasm_v128_or(value, wasm_v128_and(of, wasm_f32x4_const_splat(-0.0f)));
}

using Ints = v128_t;
inline Ints load_ints(const std::int32_t* from) { return wasm_v128_load(from); }
inline Ints load_weights(const std::int8_t* from) { return wasm_v128_load(from); }
inline Ints splat_ints(int value) { return wasm_i32x4_splat(value); }
inline Ints splat_quad(const std::uint8_t* from) { return wasm_v128_load32_splat(from); }
inline Ints add_ints(Ints a, Ints b) { return wasm_i32x4_add(a, b); }
#if defined(__wasm_relaxed_simd__)
// What it does with the eighth bit of its second operand depends on the processor: the loader tests it first.
inline Ints dot(Ints sum, Ints bytes, Ints weights) {
  return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(weights, bytes, sum);
}
#else
#define MNV2_PAIRS
inline Ints load_bytes(const std::uint8_t* from) { return wasm_v128_load(from); }
inline void store_widened(std::int16_t* to, Ints bytes) {
  wasm_v128_store(to, wasm_u16x8_extend_low_u8x16(bytes));
  wasm_v128_store(to + 8, wasm_u16x8_extend_high_u8x16(bytes));
}
inline void store_widened_quad(std::int16_t* to, Ints bytes) {
  wasm_v128_store64_lane(to, wasm_u16x8_extend_low_u8x16(bytes), 0);
}
inline Ints load_weight_pairs(const std::int8_t* from) { return wasm_i16x8_load8x8(from); }
inline Ints splat_pair(const std::int16_t* from) { return wasm_v128_load32_splat(from); }
inline Ints dot_pairs(Ints a, Ints b) { return wasm_i32x4_dot_i16x8(a, b); }
inline Ints add_words(Ints a, Ints b) { return wasm_i16x8_add(a, b); }
inline void column_pairs(Ints a, Ints b, Ints (&columns)[3]) {
  columns[0] =
      wasm_i16x8_extend_low_i8x16(wasm_i8x16_shuffle(a, b, 0, 16, 4, 20, 8, 24, 12, 28, 0, 0, 0, 0, 0, 0, 0, 0));
  columns[1] =
      wasm_i16x8_extend_low_i8x16(wasm_i8x16_shuffle(a, b, 1, 17, 5, 21, 9, 25, 13, 29, 0, 0, 0, 0, 0, 0, 0, 0));
  columns[2] =
      wasm_i16x8_extend_low_i8x16(wasm_i8x16_shuffle(a, b, 2, 18, 6, 22, 10, 26, 14, 30, 0, 0, 0, 0, 0, 0, 0, 0));
}
inline Ints dot(Ints sum, Ints bytes, Ints weights) {  // in halves of 16 bits: no sum of two products is cut off
  const Ints even = wasm_i32x4_dot_i16x8(wasm_v128_and(bytes, wasm_i16x8_const_splat(255)),
                                         wasm_i16x8_shr(wasm_i16x8_shl(weights, 8), 8));
  const Ints odd = wasm_i32x4_dot_i16x8(wasm_u16x8_shr(bytes, 8), wasm_i16x8_shr(weights, 8));
  return wasm_i32x4_add(sum, wasm_i32x4_add(even, odd));
}
#endif
inline Vec to_floats(Ints value) { return wasm_f32x4_convert_i32x4(value); }
// To the nearest even of values within 2**22, which all codes are; others give something beyond on the same side. 1.5 *
// 2**23 leaves no bits for a fraction, and the whole number is in the low bits of the sum; above, floats are in the
// order of their bits.
inline Ints to_ints(Vec value) {
  const Vec magic = splat(12582912.0f);
  return wasm_i32x4_sub(add(highest(value, splat(-4194304.0f)), magic), magic);
}
inline Ints widened_bytes(v128_t bytes) { return wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(bytes)); }
inline Ints load_byte_ints(const std::uint8_t* from, int count) {
  if (count >= LANES) return widened_bytes(wasm_v128_load32_zero(from));
  std::uint32_t bytes = 0;
  for (int i = 0; i < count; i++) bytes |= static_cast<std::uint32_t>(from[i]) << (8 * i);
  return widened_bytes(wasm_i32x4_splat(static_cast<int>(bytes)));
}
inline Ints load_quads(const std::uint8_t* from, int count) { return load_lanes(from, count); }
inline int sum_lanes(Ints value) {
  return wasm_i32x4_extract_lane(value, 0) + wasm_i32x4_extract_lane(value, 1) + wasm_i32x4_extract_lane(value, 2) +
         wasm_i32x4_extract_lane(value, 3);
}
inline void store_ints(std::int32_t* to, Ints value) { wasm_v128_store(to, value); }
inline void store_some_ints(std::int32_t* to, Ints value, int count) { store_lanes(to, value, count); }
inline v128_t narrowed(Ints a, Ints b, Ints c, Ints d) {
  return wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(a, b), wasm_i16x8_narrow_i32x4(c, d));
}
inline void store_bytes(std::uint8_t* to, Ints value) {
  wasm_v128_store32_lane(to, narrowed(value, value, value, value), 0);
}
inline void store_some_bytes(std::uint8_t* to, Ints value, int count) {
  const int bytes = wasm_i32x4_extract_lane(narrowed(value, value, value, value), 0);
  for (int i = 0; i < count; i++) to[i] = static_cast<std::uint8_t>(bytes >> (8 * i));
}
// Doubles, two vectors for one of Ints.
struct Wide {
  v128_t half[2];
};
inline Ints upper_half(Ints value) { return wasm_i32x4_shuffle(value, value, 2, 3, 2, 3); }
inline Ints joined(v128_t low, v128_t high) { return wasm_i32x4_shuffle(low, high, 0, 1, 4, 5); }
inline Wide to_wide(Ints value) {
  return {{wasm_f64x2_convert_low_i32x4(value), wasm_f64x2_convert_low_i32x4(upper_half(value))}};
}
inline Ints truncate(Wide value) {
  return joined(wasm_i32x4_trunc_sat_f64x2_zero(value.half[0]), wasm_i32x4_trunc_sat_f64x2_zero(value.half[1]));
}
inline Ints to_ints(Wide value) {
  return truncate({{wasm_f64x2_nearest(value.half[0]), wasm_f64x2_nearest(value.half[1])}});
}
inline Wide load_wide(const double* from) { return {{wasm_v128_load(from), wasm_v128_load(from + 2)}}; }
inline Wide splat_wide(double value) { return {{wasm_f64x2_splat(value), wasm_f64x2_splat(value)}}; }
inline Wide add(Wide a, Wide b) {
  return {{wasm_f64x2_add(a.half[0], b.half[0]), wasm_f64x2_add(a.half[1], b.half[1])}};
}
inline Wide mul(Wide a, Wide b) {
  return {{wasm_f64x2_mul(a.half[0], b.half[0]), wasm_f64x2_mul(a.half[1], b.half[1])}};
}
inline Wide down(Wide value) { return {{wasm_f64x2_floor(value.half[0]), wasm_f64x2_floor(value.half[1])}}; }
inline v128_t half_away(v128_t value) {
  const v128_t sign = wasm_v128_and(value, wasm_f64x2_const_splat(-0.0));
  return wasm_f64x2_trunc(wasm_f64x2_add(value, wasm_v128_or(sign, wasm_f64x2_const_splat(0.5))));
}
inline Wide half_away(Wide value) { return {{half_away(value.half[0]), half_away(value.half[1])}}; }

inline v128_t in_register(v128_t value) { return value; }

// Storing bytes packs with saturation.
constexpr bool STORE_CLAMPS = true;
constexpr bool has_interleaved(int vectors) { return vectors == 2; }

template <>
struct Interleaved<2> {  // two pixels at a time; channels are in order already
  static constexpr bool CLAMPS = true;
  static constexpr int PIXELS_TOGETHER = 2;
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    return load_byte_ints(from + vector * LANES, channels - vector * LANES);
  }
  static void put_some(std::uint8_t* to, std::uint64_t bytes, int channels) {
    for (int i = 0; i < channels; i++) to[i] = static_cast<std::uint8_t>(bytes >> (8 * i));
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][2], const TileOut& to) {
    MNV2_UNROLL for (int i = 0; i < ROWS; i += 2) {
      const int next = i + 1 < ROWS ? i + 1 : i;
      const v128_t both = narrowed(bytes[i][0], bytes[i][1], bytes[next][0], bytes[next][1]);
      std::uint8_t *const here = to.out + i * to.pixel, *const there = to.out + next * to.pixel;
      if (to.channels >= 2 * LANES) {
        wasm_v128_store64_lane(here, both, 0);
        if (next > i) wasm_v128_store64_lane(there, both, 1);
      } else {
        put_some(here, static_cast<std::uint64_t>(wasm_i64x2_extract_lane(both, 0)), to.channels);
        if (next > i) put_some(there, static_cast<std::uint64_t>(wasm_i64x2_extract_lane(both, 1)), to.channels);
      }
    }
  }
};

// Bytes of 16 channels of one pixel.
#define MNV2_PIXEL_VECTORS
constexpr int QUADS = 4;  // of channels in a block
constexpr int PIXELS = LANES / 4;
inline v128_t load_quad(const float* from) { return load(from); }
inline v128_t load_quad(const void* from) { return wasm_v128_load(from); }
inline Wide load_quad(const double* from) { return load_wide(from); }
inline Ints splat_byte(int value) { return wasm_i8x16_splat(static_cast<signed char>(value)); }
using PixelMask = bool;
inline PixelMask pixel_mask(int low, int high) { return low <= 0 && high > 0; }
inline Ints load_pixels(const std::uint8_t* from, PixelMask inside, Ints outside) {
  return inside ? wasm_v128_load(from) : outside;
}
inline Ints even_pixels(Ints a, Ints) { return a; }
inline Ints odd_pixels(Ints, Ints b) { return b; }
inline v128_t low_bytes(v128_t a, v128_t b) {
  return wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline v128_t high_bytes(v128_t a, v128_t b) {
  return wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline v128_t low_words(v128_t a, v128_t b) { return wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline v128_t high_words(v128_t a, v128_t b) { return wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
inline void interleave(const Ints (&column)[3], Ints (&quads)[QUADS]) {
  const Ints none = wasm_i32x4_const_splat(0);
  const Ints low = low_bytes(column[0], column[1]), high = high_bytes(column[0], column[1]);
  const Ints low_third = low_bytes(column[2], none), high_third = high_bytes(column[2], none);
  quads[0] = low_words(low, low_third);
  quads[1] = high_words(low, low_third);
  quads[2] = low_words(high, high_third);
  quads[3] = high_words(high, high_third);
}
inline void store_pixels(std::uint8_t* to, const Ints (&quads)[QUADS], int) {
  wasm_v128_store(to, narrowed(quads[0], quads[1], quads[2], quads[3]));
}
#if defined(MNV2_PAIRS)
inline void row_pairs(Ints a, Ints b, Ints (&quads)[QUADS]) {
  const Ints low = low_bytes(a, b), high = high_bytes(a, b);
  quads[0] = wasm_u16x8_extend_low_u8x16(low);
  quads[1] = wasm_u16x8_extend_high_u8x16(low);
  quads[2] = wasm_u16x8_extend_low_u8x16(high);
  quads[3] = wasm_u16x8_extend_high_u8x16(high);
}
inline void store_quads(std::uint8_t* to, const Ints (&pixels)[4], int count) {
  const Ints bytes = narrowed(pixels[0], pixels[1], pixels[2], pixels[3]);
  wasm_v128_store32_lane(to, bytes, 0);
  if (count > 1) wasm_v128_store32_lane(to + BLOCK, bytes, 1);
  if (count > 2) wasm_v128_store32_lane(to + 2 * BLOCK, bytes, 2);
  if (count > 3) wasm_v128_store32_lane(to + 3 * BLOCK, bytes, 3);
}
#endif

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2

#include "one_step.hpp"
