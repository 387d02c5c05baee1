// The vocabulary of lanes.hpp for plain C++.
#pragma once

#include <cstring>

#include "../passes.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

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

// Whether two bfloat16 pairs are multiplied in one instruction, not one half after the other.
constexpr bool MULTIPLIES_PAIRS = false;

inline Vec multiply_add_pairs(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
inline Vec load_factor(const Pair* from, int part) { return load_lanes(part == 0 ? &from->first : &from->second, 1); }
inline Vec splat_factor(const Pair* from, int part) { return load_factor(from, part); }
inline void store_pairs(Pair* to, const bfloat16* row, const bfloat16* second, int) {
  *to = {*row, second ? *second : bfloat16{0}};
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
