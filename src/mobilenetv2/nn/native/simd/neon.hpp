// The vocabulary of lanes.hpp for 64-bit Arm.
#pragma once

#include <cstring>

#include "../passes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

inline Vec load_lanes(const float* from, int) { return load(from); }
inline void store_lanes(float* to, Vec value, int) { store(to, value); }
inline Vec of_bits(uint32x4_t bits) { return vreinterpretq_f32_u32(bits); }
inline uint32x4_t four_bits(const bfloat16* from) {
  return vmovl_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(from)));
}
inline Vec load_lanes(const bfloat16* from, int) { return of_bits(vshlq_n_u32(four_bits(from), 16)); }
inline void store_lanes(bfloat16* to, Vec value, int) {
  const uint32x4_t bits = vreinterpretq_u32_f32(value);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  vst1_u16(reinterpret_cast<std::uint16_t*>(to), vshrn_n_u32(rounded, 16));
}
inline Vec inside(Vec at, Vec value) {
  const uint32x4_t within = vandq_u32(vcgtq_f32(at, vdupq_n_f32(0.0f)), vcltq_f32(at, vdupq_n_f32(6.0f)));
  return of_bits(vandq_u32(vreinterpretq_u32_f32(value), within));
}

// Whether two bfloat16 pairs are multiplied in one instruction, not one half after the other.
constexpr bool MULTIPLIES_PAIRS = false;

inline Vec multiply_add_pairs(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
inline Vec part_of(uint32x4_t pairs, int part) {
  return of_bits(part == 0 ? vshlq_n_u32(pairs, 16) : vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
}
inline Vec load_factor(const Pair* from, int part) {
  return part_of(vld1q_u32(reinterpret_cast<const std::uint32_t*>(from)), part);
}
inline Vec splat_factor(const Pair* from, int part) {
  std::uint32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return part_of(vdupq_n_u32(bits), part);
}
inline void store_pairs(Pair* to, const bfloat16* row, const bfloat16* second, int) {
  const uint32x4_t high = second ? vshlq_n_u32(four_bits(second), 16) : vdupq_n_u32(0);
  vst1q_u32(reinterpret_cast<std::uint32_t*>(to), vorrq_u32(four_bits(row), high));
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
