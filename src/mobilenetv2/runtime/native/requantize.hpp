// How int8 sums become what is stored, vectors at a time, for the target that MNV2_NAMESPACE names. rounding.hpp says
// what each mode means. No step is fused, so that all targets store the same bytes.
#pragma once

#include "kernels.hpp"
#include "rounding.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

inline Vec clamped(Vec value, Vec low, Vec high) { return lowest(highest(value, low), high); }

inline Wide rounded_twice(Wide value, Wide fraction, Wide power) {
  return half_away(mul(down(add(mul(value, fraction), splat_wide(0.5))), power));
}
inline Wide rounded_twice(Wide value, const Twice& by) {
  return rounded_twice(value, splat_wide(by.fraction), splat_wide(by.power));
}

// Factors of the channels from `channel` on, one per lane.
struct PerLane {
  static Vec floats(const float* from) { return load(from); }
  static Wide doubles(const double* from) { return load_wide(from); }
};

// Turns sums into codes less the zero point: MODE, for one vector of channels. FACTORS says how the factors lie.
template <RoundingMode MODE, class FACTORS>
struct Codes;

template <class FACTORS>
struct Codes<RoundingMode::ONCE_SATURATING, FACTORS> {
  Vec factor;
  Codes(const Requantize& to, int channel, float, float) : factor(FACTORS::floats(to.factor + channel)) {}
  Ints operator()(Ints sum) const { return to_ints(mul(to_floats(sum), factor)); }
};

template <class FACTORS>
struct Codes<RoundingMode::ONCE, FACTORS> {
  Vec factor, low, high;
  Codes(const Requantize& to, int channel, float least, float greatest)
      : factor(FACTORS::floats(to.factor + channel)), low(splat(least)), high(splat(greatest)) {}
  Ints operator()(Ints sum) const { return to_ints(clamped(mul(to_floats(sum), factor), low, high)); }
  // With a shortcut, less its zero point, times its share.
  Ints operator()(Ints sum, Ints shortcut, Vec share) const {
    return to_ints(clamped(add(mul(to_floats(sum), factor), mul(to_floats(shortcut), share)), low, high));
  }
};

template <class FACTORS>
struct Codes<RoundingMode::TWICE_NON_NEGATIVE, FACTORS> {
  Wide factor, offset;
  Codes(const Requantize& to, int channel, float, float)
      : factor(FACTORS::doubles(to.fraction + channel)), offset(FACTORS::doubles(to.power + channel)) {}
  // Not clamped: storing packs with saturation, or the caller clamps.
  Ints operator()(Ints sum) const { return truncate(add(mul(to_wide(sum), factor), offset)); }
};

template <class FACTORS>
struct Codes<RoundingMode::TWICE, FACTORS> {
  Wide fraction, power;
  Vec low, high;
  Codes(const Requantize& to, int channel, float least, float greatest)
      : fraction(FACTORS::doubles(to.fraction + channel)),
        power(FACTORS::doubles(to.power + channel)),
        low(splat(least)),
        high(splat(greatest)) {}
  Vec product(Ints sum) const { return to_floats(to_ints(rounded_twice(to_wide(sum), fraction, power))); }
  Ints operator()(Ints sum) const { return to_ints(clamped(product(sum), low, high)); }
  // With a shortcut, less its zero point.
  Ints operator()(Ints sum, Ints shortcut, const Requantize& to) const {
    const Ints limited = to_ints(clamped(product(sum), splat(to.product_low), splat(to.product_high)));
    const Wide total = add(rounded_twice(mul(to_wide(limited), splat_wide(ADD_UNITS)), to.product),
                           rounded_twice(mul(to_wide(shortcut), splat_wide(ADD_UNITS)), to.shortcut));
    return to_ints(clamped(to_floats(to_ints(rounded_twice(total, to.total))), low, high));
  }
};

// The same in float32, for the modes that round twice: right unless a value lies close to a half, which `worst` tells
// of. Not clamped.
template <RoundingMode MODE>
struct NearCodes {
  Vec factor, half;
  Vec operator()(Ints sum, Vec& worst) const {
    const Vec number = to_floats(sum);
    const Vec value = fma(number, factor, MODE == RoundingMode::TWICE ? with_sign(half, number) : half);
    worst = larger_magnitude(worst, off_whole(value));
    return value;
  }
};

inline bool near_halves(const Requantize& to, Vec worst) { return any_greater(worst, splat(to.near.limit)); }

// Results that are written as floats: codes less the zero point, times their scale.
inline Vec float_results(const Requantize& to, Ints sum, int channel, float low, float high) {
  const Vec value = is_once(to.mode) ? mul(to_floats(sum), load(to.factor + channel))
                                     : to_floats(to_ints(rounded_twice(to_wide(sum), load_wide(to.fraction + channel),
                                                                       load_wide(to.power + channel))));
  return mul(clamped(value, splat(low), splat(high)), splat(to.float_scale));
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
