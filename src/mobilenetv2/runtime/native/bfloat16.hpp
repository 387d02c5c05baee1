// bfloat16: the upper half of a float, rounded to the nearest even. Compiled with every target's flags: all functions
// have internal linkage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

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
  std::memcpy(&wide, &bits, sizeof wide);
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
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t magnitude = bits & 0x7fffffffu, sign = bits & 0x80000000u;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
  if (magnitude < 0x00800000u) return {static_cast<std::uint16_t>(sign >> 16)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

// Numbers of a caller as they are stored; a byte is exact in each type.
template <class T>
inline void convert(const float* from, std::size_t count, T* to) {
  for (std::size_t i = 0; i < count; i++) to[i] = from_float<T>(from[i]);
}
template <class T>
inline void convert(const std::uint8_t* from, std::size_t count, T* to) {
  for (std::size_t i = 0; i < count; i++) to[i] = static_cast<T>(from[i]);
}
template <>
inline void convert(const std::uint8_t* from, std::size_t count, bfloat16* to) {
  for (std::size_t i = 0; i < count; i++) {
    const float wide = from[i];
    std::uint32_t bits;
    std::memcpy(&bits, &wide, sizeof bits);
    to[i].bits = static_cast<std::uint16_t>(bits >> 16);
  }
}

}  // namespace
}  // namespace mobilenetv2
