// The vocabulary of simd.hpp for plain C++: one lane, any compiler.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../dialect.hpp"
#include "../kernels.hpp"
#include "../store_order.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

using Vec = float;
constexpr int LANES = 1;
constexpr int PANEL_VECTORS = 4;
constexpr int tile_rows(int vectors) { return vectors >= 3 ? 2 : 4; }

inline Vec load(const float* from) { return *from; }
inline Vec load_some(const float* from, int count) { return count > 0 ? *from : 0.0f; }
using Mask = bool;
inline Mask mask_if(bool on) { return on; }
inline Vec load_if(Mask mask, const float* from) { return mask ? *from : 0.0f; }
inline void store(float* to, Vec value) { *to = value; }
inline void store_some(float* to, Vec value, int count) {
  if (count > 0) *to = value;
}
inline Vec splat(float value) { return value; }
inline Vec zero() { return 0.0f; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec whole(Vec value) { return ::truncf(value); }
inline Vec if_greater(Vec a, Vec b, Vec x, Vec y) { return a > b ? x : y; }
inline bool any_greater(Vec a, Vec b) { return a > b; }
inline Vec nearest(Vec value) { return ::rintf(value); }
inline Vec off_whole(Vec value) { return value - nearest(value); }
inline Vec larger_magnitude(Vec a, Vec b) {
  const float magnitude = ::fabsf(b);
  return a > magnitude ? a : magnitude;
}
inline Vec with_sign(Vec value, Vec of) { return ::copysignf(value, of); }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec lowest(Vec a, Vec b) { return a < b ? a : b; }
inline Vec highest(Vec a, Vec b) { return a > b ? a : b; }

using Ints = std::int32_t;
inline Ints load_ints(const std::int32_t* from) { return *from; }
inline Ints load_weights(const std::int8_t* from) {
  Ints quad;
  std::memcpy(&quad, from, 4);
  return quad;
}
inline Ints splat_ints(int value) { return value; }
inline Ints splat_quad(const std::uint8_t* from) {
  Ints quad;
  std::memcpy(&quad, from, 4);
  return quad;
}
inline Ints add_ints(Ints a, Ints b) { return a + b; }
inline Ints dot(Ints sum, Ints bytes, Ints weights) {
  for (int i = 0; i < 4; i++) {
    sum += static_cast<std::uint8_t>(bytes >> (8 * i)) * static_cast<std::int8_t>(weights >> (8 * i));
  }
  return sum;
}
inline Vec to_floats(Ints value) { return static_cast<float>(value); }
inline Ints to_ints(Vec value) { return static_cast<Ints>(::lrintf(value)); }
inline Ints load_byte_ints(const std::uint8_t* from, int) { return *from; }
inline Ints load_quads(const std::uint8_t* from, int count) { return count > 0 ? splat_quad(from) : 0; }
inline int sum_lanes(Ints value) { return value; }
inline void store_ints(std::int32_t* to, Ints value) { *to = value; }
inline void store_some_ints(std::int32_t* to, Ints value, int) { *to = value; }
inline void store_bytes(std::uint8_t* to, Ints value) { *to = static_cast<std::uint8_t>(value); }
inline void store_some_bytes(std::uint8_t* to, Ints value, int count) {
  if (count > 0) *to = static_cast<std::uint8_t>(value);
}
struct Wide {
  double value;
};
inline Wide to_wide(Ints value) { return {static_cast<double>(value)}; }
inline Ints to_ints(Wide value) { return static_cast<Ints>(::lrint(value.value)); }
inline Ints truncate(Wide value) { return static_cast<Ints>(value.value); }
inline Wide load_wide(const double* from) { return {*from}; }
inline Wide splat_wide(double value) { return {value}; }
inline Wide add(Wide a, Wide b) { return {a.value + b.value}; }
inline Wide mul(Wide a, Wide b) { return {a.value * b.value}; }
inline Wide down(Wide value) { return {::floor(value.value)}; }
inline Wide half_away(Wide value) { return {::trunc(value.value + ::copysign(0.5, value.value))}; }

inline Vec in_register(Vec value) { return value; }
inline Ints in_register(Ints value) {
  MNV2_IN_REGISTER("r", value);
  return value;
}

constexpr bool STORE_CLAMPS = false;
constexpr bool has_interleaved(int) { return false; }

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2

#include "one_step.hpp"
