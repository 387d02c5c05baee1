// How an int8 sum becomes what is stored: the modes, and the arithmetic of one number. requantize.hpp has it for
// vectors. Compiled with every target's flags: all functions have internal linkage.
#pragma once

#include <math.h>

#include <cstdint>

namespace mobilenetv2 {

enum class RoundingMode : std::int32_t {
  // Times the channel's float factor, plus the shortcut, clamped, to the nearest even.
  ONCE,
  // The same where no result is beyond 32 bits, the limits are those of a byte, and there is no shortcut: packing
  // clamps.
  ONCE_SATURATING,
  // As TensorFlow Lite's reference kernels: times the channel's fraction, halves up; times its power of two, halves
  // away from zero; clamped. A shortcut and this product come to 2**-20 units of twice the larger scale, and their
  // sum to the output's, each step rounded in the same way.
  TWICE,
  // The same where results below 0 are stored as 0, those above 255 as 255, and there is no shortcut: both roundings
  // collapse into floor(sum * fraction + power), `fraction` being the whole factor and `power` what is added.
  TWICE_NON_NEGATIVE,
  // As ONCE and TWICE, without a shortcut; the clamped result times a scale is written as a float.
  ONCE_TO_FLOAT,
  TWICE_TO_FLOAT,
};

static constexpr bool is_once(RoundingMode mode) {
  return mode == RoundingMode::ONCE || mode == RoundingMode::ONCE_SATURATING || mode == RoundingMode::ONCE_TO_FLOAT;
}
static constexpr bool is_to_float(RoundingMode mode) {
  return mode == RoundingMode::ONCE_TO_FLOAT || mode == RoundingMode::TWICE_TO_FLOAT;
}
static constexpr bool takes_shortcut(RoundingMode mode) {
  return mode == RoundingMode::ONCE || mode == RoundingMode::TWICE;
}

// A factor of TWICE: a fraction, and a power of two.
struct Twice {
  double fraction, power;
};

// What rounds twice, in float32: results further than `limit` from a whole number may be a step off and are computed in
// doubles. A sum with a shortcut is near product * product_share + shortcut * shortcut_share.
struct Near {
  float limit, product_share, shortcut_share;
};

constexpr double ADD_UNITS = 1 << 20;  // of a sum of two tensors with TWICE

namespace {

// The functions of C: those of <cmath> may be inline, and would then be shared between targets.

// To the nearest, halves away from zero.
inline double half_away_from_zero(double value) { return ::trunc(value + ::copysign(0.5, value)); }

// A sum times its factor, before it is clamped: a whole number in the modes that round twice.
inline float rescaled_sum(RoundingMode mode, std::int32_t sum, float factor, double fraction, double power) {
  if (is_once(mode)) return static_cast<float>(sum) * factor;
  if (mode == RoundingMode::TWICE_NON_NEGATIVE) return static_cast<float>(::trunc(sum * fraction + power));
  return static_cast<float>(half_away_from_zero(::floor(sum * fraction + 0.5) * power));
}

// The code of a value: clamped, to the nearest even, plus the zero point.
inline std::uint8_t code_of(float value, float low, float high, int zero) {
  value = value < low ? low : value > high ? high : value;
  return static_cast<std::uint8_t>(static_cast<int>(::lrintf(value)) + zero);
}

}  // namespace
}  // namespace mobilenetv2
