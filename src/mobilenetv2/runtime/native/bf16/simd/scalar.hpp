// The vocabulary of pairs.hpp for plain C++.
#pragma once

#include "../../kernels.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

inline Vec load(const bfloat16* from) { return to_float(*from); }
inline Vec load_some(const bfloat16* from, int count) { return count > 0 ? to_float(*from) : 0.0f; }
inline void store(bfloat16* to, Vec value) { *to = from_float<bfloat16>(value); }
inline void store_some(bfloat16* to, Vec value, int count) {
  if (count > 0) *to = from_float<bfloat16>(value);
}

// The first number in the lower half. Not two floats: GCC 12 makes vectors of the sums of a tile then, and loses some.
using Pairs = std::uint32_t;
inline Pairs load_pairs(const bfloat16* from) { return from[0].bits | static_cast<Pairs>(from[1].bits) << 16; }
inline Pairs splat_pair(const bfloat16* from) { return load_pairs(from); }
inline Pairs splat_first(const bfloat16* from) { return from->bits; }
inline Pairs join(Vec first, Vec second) {
  return from_float<bfloat16>(first).bits | static_cast<Pairs>(from_float<bfloat16>(second).bits) << 16;
}
inline Pairs join_pixels(const bfloat16* from) { return from[0].bits | static_cast<Pairs>(from[BLOCK].bits) << 16; }
using PairMask = Pairs;
inline PairMask pair_mask_if(bool first, bool second) { return (first ? 0xffffu : 0u) | (second ? 0xffff0000u : 0u); }
inline Pairs join_pixels_if(PairMask mask, const bfloat16* from) {
  return (mask & 1 ? from[0].bits : 0u) | (mask >> 16 ? static_cast<Pairs>(from[BLOCK].bits) << 16 : 0u);
}
inline bfloat16 second_of(Pairs pair) { return {static_cast<std::uint16_t>(pair >> 16)}; }
inline bfloat16 first_of(Pairs pair) { return {static_cast<std::uint16_t>(pair)}; }
inline Vec dot(Vec sum, Pairs a, Pairs b) {
  sum += to_float(second_of(a)) * to_float(second_of(b));
  return sum + to_float(first_of(a)) * to_float(first_of(b));
}

struct Limits {
  float low, high;
};
inline Limits make_limits(float low, float high) { return {low, high}; }
inline void store_one(bfloat16* to, Vec value, const Limits& limits) {
  *to = from_float<bfloat16>(lowest(highest(value, limits.low), limits.high));
}
inline void store_two(bfloat16* to, Vec first, Vec second, const Limits& limits) {
  store_one(to, first, limits);
  store_one(to + BLOCK, second, limits);
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
