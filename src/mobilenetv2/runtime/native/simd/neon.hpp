// The vocabulary of simd.hpp for 64-bit Arm, with dot products (SDOT) and those of unsigned by signed bytes (I8MM)
// where the compiler's flags have them.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../dialect.hpp"
#include "../kernels.hpp"
#include "../store_order.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

using Vec = float32x4_t;
constexpr int LANES = 4;
constexpr int PANEL_VECTORS = 4;
// Of 32 registers, one per row holds STEPS inputs.
constexpr int tile_rows(int vectors) { return vectors == 4 ? 5 : vectors == 3 ? 6 : vectors == 2 ? 8 : 12; }

inline Vec load(const float* from) { return vld1q_f32(from); }
inline Vec load_some(const float* from, int count) {
  if (count >= LANES) return vld1q_f32(from);
  float lanes[LANES] = {};
  for (int i = 0; i < count; i++) lanes[i] = from[i];
  return vld1q_f32(lanes);
}
using Mask = bool;
inline Mask mask_if(bool on) { return on; }
inline Vec load_if(Mask mask, const float* from) { return mask ? vld1q_f32(from) : vdupq_n_f32(0.0f); }
inline void store(float* to, Vec value) { vst1q_f32(to, value); }
inline void store_some(float* to, Vec value, int count) {
  if (count >= LANES) return vst1q_f32(to, value);
  float lanes[LANES];
  vst1q_f32(lanes, value);
  for (int i = 0; i < count; i++) to[i] = lanes[i];
}
inline Vec splat(float value) { return vdupq_n_f32(value); }
inline Vec zero() { return vdupq_n_f32(0.0f); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
// Of a value that is no number and a number, the number, as on other targets.
inline Vec lowest(Vec a, Vec b) { return vminnmq_f32(a, b); }
inline Vec highest(Vec a, Vec b) { return vmaxnmq_f32(a, b); }
inline Vec whole(Vec value) { return vrndq_f32(value); }
inline Vec if_greater(Vec a, Vec b, Vec x, Vec y) { return vbslq_f32(vcgtq_f32(a, b), x, y); }
inline bool any_greater(Vec a, Vec b) { return vmaxvq_u32(vcgtq_f32(a, b)) != 0; }
inline Vec nearest(Vec value) { return vrndnq_f32(value); }
inline Vec off_whole(Vec value) { return vsubq_f32(value, vrndnq_f32(value)); }
inline Vec larger_magnitude(Vec a, Vec b) { return vmaxq_f32(a, vabsq_f32(b)); }  // of a without a sign
inline Vec with_sign(Vec value, Vec of) { return vbslq_f32(vdupq_n_u32(0x80000000u), of, value); }

constexpr int STEPS = 4;
using Steps = float32x4_t;
inline Steps load_steps(const float* from) { return vld1q_f32(from); }
template <int STEP>
inline Vec fma_step(Steps values, Vec by, Vec sum) {
  return vfmaq_laneq_f32(sum, by, values, STEP);
}

using Ints = int32x4_t;
inline Ints load_ints(const std::int32_t* from) { return vld1q_s32(from); }
inline void store_ints(std::int32_t* to, Ints value) { vst1q_s32(to, value); }
inline void store_some_ints(std::int32_t* to, Ints value, int count) {
  if (count >= LANES) return vst1q_s32(to, value);
  std::int32_t lanes[LANES];
  vst1q_s32(lanes, value);
  for (int i = 0; i < count; i++) to[i] = lanes[i];
}
inline Ints splat_ints(int value) { return vdupq_n_s32(value); }
inline Ints add_ints(Ints a, Ints b) { return vaddq_s32(a, b); }
inline Ints of_bytes(int8x16_t bytes) { return vreinterpretq_s32_s8(bytes); }
inline int8x16_t bytes_of(Ints value) { return vreinterpretq_s8_s32(value); }
inline Ints load_weights(const std::int8_t* from) { return of_bytes(vld1q_s8(from)); }
inline Ints load_quads(const std::uint8_t* from, int count) {
  if (count >= LANES) return vreinterpretq_s32_u8(vld1q_u8(from));
  std::int32_t lanes[LANES] = {};
  for (int i = 0; i < count; i++) std::memcpy(lanes + i, from + 4 * i, 4);
  return vld1q_s32(lanes);
}
inline Ints add_quads(Ints sum, Ints bytes) {
  return vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(sum), vpaddlq_u8(vreinterpretq_u8_s32(bytes))));
}
inline int sum_lanes(Ints value) { return vaddvq_s32(value); }

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int INPUT_OFFSET = 0;
inline Ints as_inputs(Ints bytes) { return bytes; }
#else
constexpr int INPUT_OFFSET = 128;
inline Ints as_inputs(Ints bytes) { return veorq_s32(bytes, vdupq_n_s32(static_cast<int>(0x80808080u))); }
#endif
constexpr int INPUT_STEPS = 4;
using InputSteps = Ints;
// Only the first quad of these counts: no instruction is spent on the others.
inline InputSteps load_input_step(const std::uint8_t* from) {
  struct Quad {
    std::uint8_t bytes[4];
  };
  int32x4_t quad;
  asm("ldr %s0, %1" : "=w"(quad) : "m"(*reinterpret_cast<const Quad*>(from)));
  return as_inputs(quad);
}
inline InputSteps load_input_steps(const std::uint8_t* from) { return as_inputs(vreinterpretq_s32_u8(vld1q_u8(from))); }

#if defined(__ARM_FEATURE_DOTPROD)
constexpr int byte_tile_rows(int vectors) { return tile_rows(vectors); }
using Sums = Ints;
inline Sums to_sums(Ints start) { return start; }
inline Ints from_sums(Sums sums) { return sums; }
#if defined(__ARM_FEATURE_MATMUL_INT8)
inline Sums dot(Sums sum, Ints inputs, Ints weights) {
  return vusdotq_s32(sum, vreinterpretq_u8_s32(inputs), bytes_of(weights));
}
template <int STEP>
inline Sums dot_step(Sums sum, InputSteps inputs, Ints weights) {
  return vsudotq_laneq_s32(sum, bytes_of(weights), vreinterpretq_u8_s32(inputs), STEP);
}
#else
inline Sums dot(Sums sum, Ints inputs, Ints weights) { return vdotq_s32(sum, bytes_of(inputs), bytes_of(weights)); }
template <int STEP>
inline Sums dot_step(Sums sum, InputSteps inputs, Ints weights) {
  return vdotq_laneq_s32(sum, bytes_of(weights), bytes_of(inputs), STEP);
}
#endif
#else
constexpr int byte_tile_rows(int vectors) { return vectors == 4 ? 2 : vectors == 3 ? 3 : vectors == 2 ? 4 : 8; }
// Of the products of four bytes, the first two and the last two are summed apart: a product fits 16 bits, two do not.
struct Sums {
  int32x4_t low, high;  // of lanes 0 and 1, of 2 and 3
};
inline Sums to_sums(Ints start) { return {vzip1q_s32(start, vdupq_n_s32(0)), vzip2q_s32(start, vdupq_n_s32(0))}; }
inline Ints from_sums(const Sums& sums) { return vpaddq_s32(sums.low, sums.high); }
inline Sums dot(const Sums& sum, Ints inputs, Ints weights) {
  const int8x16_t a = bytes_of(inputs), b = bytes_of(weights);
  return {vpadalq_s16(sum.low, vmull_s8(vget_low_s8(a), vget_low_s8(b))), vpadalq_s16(sum.high, vmull_high_s8(a, b))};
}
template <int STEP>
inline Sums dot_step(const Sums& sum, InputSteps inputs, Ints weights) {
  return dot(sum, vdupq_laneq_s32(inputs, STEP), weights);
}
#endif

inline Vec to_floats(Ints value) { return vcvtq_f32_s32(value); }
inline Ints to_ints(Vec value) { return vcvtnq_s32_f32(value); }
inline Ints load_byte_ints(const std::uint8_t* from, int count) {
  std::uint32_t bytes = 0;
  if (count >= LANES) {
    std::memcpy(&bytes, from, 4);
  } else {
    for (int i = 0; i < count; i++) bytes |= static_cast<std::uint32_t>(from[i]) << (8 * i);
  }
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
}
inline uint8x8_t narrowed(Ints a, Ints b) { return vqmovun_s16(vqmovn_high_s32(vqmovn_s32(a), b)); }
inline void store_some_bytes(std::uint8_t* to, Ints value, int count) {
  std::uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(narrowed(value, value)), 0);
  for (int i = 0; i < count; i++, bytes >>= 8) to[i] = static_cast<std::uint8_t>(bytes);
}
inline void store_bytes(std::uint8_t* to, Ints value) {
  const std::uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(narrowed(value, value)), 0);
  std::memcpy(to, &bytes, 4);
}

// Doubles, two vectors for one of Ints.
struct Wide {
  float64x2_t half[2];
};
inline Wide to_wide(Ints value) {
  return {{vcvtq_f64_s64(vmovl_s32(vget_low_s32(value))), vcvtq_f64_s64(vmovl_high_s32(value))}};
}
inline Ints to_ints(const Wide& value) {
  return vqmovn_high_s64(vqmovn_s64(vcvtnq_s64_f64(value.half[0])), vcvtnq_s64_f64(value.half[1]));
}
inline Ints truncate(const Wide& value) {
  return vqmovn_high_s64(vqmovn_s64(vcvtq_s64_f64(value.half[0])), vcvtq_s64_f64(value.half[1]));
}
inline Wide load_wide(const double* from) { return {{vld1q_f64(from), vld1q_f64(from + 2)}}; }
inline Wide splat_wide(double value) { return {{vdupq_n_f64(value), vdupq_n_f64(value)}}; }
inline Wide add(const Wide& a, const Wide& b) {
  return {{vaddq_f64(a.half[0], b.half[0]), vaddq_f64(a.half[1], b.half[1])}};
}
inline Wide mul(const Wide& a, const Wide& b) {
  return {{vmulq_f64(a.half[0], b.half[0]), vmulq_f64(a.half[1], b.half[1])}};
}
inline Wide down(const Wide& value) { return {{vrndmq_f64(value.half[0]), vrndmq_f64(value.half[1])}}; }
inline float64x2_t half_away(float64x2_t value) {
  const float64x2_t half = vbslq_f64(vdupq_n_u64(0x8000000000000000u), value, vdupq_n_f64(0.5));
  return vrndq_f64(vaddq_f64(value, half));
}
inline Wide half_away(const Wide& value) { return {{half_away(value.half[0]), half_away(value.half[1])}}; }

inline Vec in_register(Vec value) {
  MNV2_IN_REGISTER("w", value);
  return value;
}
inline Ints in_register(Ints value) {
  MNV2_IN_REGISTER("w", value);
  return value;
}

// Storing bytes packs with saturation.
constexpr bool STORE_CLAMPS = true;
// With four lanes the order that is called interleaved is that of the channels.
constexpr bool has_interleaved(int vectors) { return vectors == 4; }

template <>
struct Interleaved<4> {
  static constexpr bool CLAMPS = true;
  static constexpr int PIXELS_TOGETHER = 1;
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    return load_byte_ints(from + vector * LANES, channels - vector * LANES);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][4], const TileOut& to) {
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      const uint8x16_t packed = vcombine_u8(narrowed(bytes[i][0], bytes[i][1]), narrowed(bytes[i][2], bytes[i][3]));
      std::uint8_t* const out = to.out + i * to.pixel;
      if (to.channels >= BLOCK) {
        vst1q_u8(out, packed);
      } else {
        std::uint8_t all[BLOCK];
        vst1q_u8(all, packed);
        for (int c = 0; c < to.channels; c++) out[c] = all[c];
      }
    }
  }
};

// Bytes of 16 channels of one pixel.
#define MNV2_PIXEL_VECTORS
constexpr int QUADS = 4;  // of channels in a block
constexpr int PIXELS = LANES / 4;
inline Vec load_quad(const float* from) { return vld1q_f32(from); }
inline Ints load_quad(const void* from) { return of_bytes(vld1q_s8(static_cast<const std::int8_t*>(from))); }
inline Wide load_quad(const double* from) { return load_wide(from); }
inline Ints splat_byte(int value) {
  return as_inputs(vreinterpretq_s32_u8(vdupq_n_u8(static_cast<std::uint8_t>(value))));
}
using PixelMask = bool;
inline PixelMask pixel_mask(int low, int high) { return low <= 0 && high > 0; }
inline Ints load_pixels(const std::uint8_t* from, PixelMask inside, Ints outside) {
  return inside ? load_input_steps(from) : outside;
}
inline Ints even_pixels(Ints a, Ints) { return a; }
inline Ints odd_pixels(Ints, Ints b) { return b; }
inline void interleave(const Ints (&column)[3], Ints (&quads)[QUADS]) {
  const int8x16_t first = bytes_of(column[0]), second = bytes_of(column[1]), third = bytes_of(column[2]);
  const int16x8_t low = vreinterpretq_s16_s8(vzip1q_s8(first, second));
  const int16x8_t high = vreinterpretq_s16_s8(vzip2q_s8(first, second));
  const int16x8_t low_third = vreinterpretq_s16_s8(vzip1q_s8(third, vdupq_n_s8(0)));
  const int16x8_t high_third = vreinterpretq_s16_s8(vzip2q_s8(third, vdupq_n_s8(0)));
  quads[0] = vreinterpretq_s32_s16(vzip1q_s16(low, low_third));
  quads[1] = vreinterpretq_s32_s16(vzip2q_s16(low, low_third));
  quads[2] = vreinterpretq_s32_s16(vzip1q_s16(high, high_third));
  quads[3] = vreinterpretq_s32_s16(vzip2q_s16(high, high_third));
}
inline void store_pixels(std::uint8_t* to, const Ints (&quads)[QUADS], int) {
  vst1q_u8(to, vcombine_u8(narrowed(quads[0], quads[1]), narrowed(quads[2], quads[3])));
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
