// The best class of every pixel of a resized row, for the target that MNV2_NAMESPACE names. Each value is computed as
// resize.cpp does, so that the answer is that of the resized values.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Of `count` outputs from `from` on, which lie between the same two columns.
template <bool CODES, bool LOWER>
inline void label_outputs(const Labels& job, int from, int count) {
  const Vec share = load_some(job.share + from, count), rest = sub(splat(1.0f), share);
  const int left = job.left[from], right = job.right[from];
  const std::uint8_t* const possible =
      job.possible ? job.possible + left / job.channels * (MOST_POSSIBLE + 1) : nullptr;
  const int tries = possible ? possible[0] : job.channels;
  const auto class_of = [&](int i) { return possible ? possible[1 + i] : i; };
  Vec best = zero(), label = splat(static_cast<float>(class_of(0)));
  for (int i = 0; i < tries && tries > 1; i++) {
    const int c = class_of(i);
    Vec value = mul(splat(job.upper[left + c]), rest);
    if constexpr (LOWER) value = add(value, mul(splat(job.lower[left + c]), rest));
    value = add(value, mul(splat(job.upper[right + c]), share));
    if constexpr (LOWER) value = add(value, mul(splat(job.lower[right + c]), share));
    if constexpr (CODES) value = whole(add(value, splat(0.5f)));
    if (i > 0) label = if_greater(value, best, splat(static_cast<float>(c)), label);
    best = i > 0 ? highest(best, value) : value;
  }
  store_some_ints(job.labels + from, to_ints(label), count);
}

template <bool CODES, bool LOWER>
void label_row(const Labels& job) {
  for (int from = 0; from < job.width;) {
    const int until = job.ends[from] < from + LANES ? job.ends[from] : from + LANES;
    label_outputs<CODES, LOWER>(job, from, until - from);
    from = until;
  }
}

void labels(const Labels& job) {
  if (job.lower) {
    label_row<true, true>(job);
  } else if (job.codes) {
    label_row<true, false>(job);
  } else {
    label_row<false, false>(job);
  }
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
