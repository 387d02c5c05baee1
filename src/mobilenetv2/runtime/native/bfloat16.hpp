// bfloat16: the upper half of a float, rounded to the nearest even. Compiled with every target's flags: all functions
// have internal linkage.
#pragma once

#include <cstdint>

namespace mobilenetv2 {

struct bfloat16 {
  std::uint16_t bits;
};

namespace {

inline float to_float(float value) { return value; }
inline float to_float(std::uint8_t value) { return static_cast<float>(value); }
inline float to_float(bfloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <class T>
inline T from_float(float value) {
  return static_cast<T>(value);
}
// As vcvtneps2bf16: what is not a number stays that, and subnormal numbers become zeros.
template <>
inline bfloat16 from_float<bfloat16>(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const std::uint32_t magnitude = bits & 0x7fffffffu, sign = bits & 0x80000000u;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
  if (magnitude < 0x00800000u) return {static_cast<std::uint16_t>(sign >> 16)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

// Of a byte: exact in each type.
template <class T>
inline T from_byte(std::uint8_t value) {
  return static_cast<T>(value);
}
template <>
inline bfloat16 from_byte<bfloat16>(std::uint8_t value) {
  const float wide = value;
  std::uint32_t bits;
  __builtin_memcpy(&bits, &wide, sizeof bits);
  return {static_cast<std::uint16_t>(bits >> 16)};
}

}  // namespace
}  // namespace mobilenetv2
