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
  Vec best = splat(0.0f), label = splat(0.0f);
  for (int c = 0; c < job.channels; c++) {
    Vec value = mul(splat(job.upper[left + c]), rest);
    if constexpr (LOWER) value = add(value, mul(splat(job.lower[left + c]), rest));
    value = add(value, mul(splat(job.upper[right + c]), share));
    if constexpr (LOWER) value = add(value, mul(splat(job.lower[right + c]), share));
    if constexpr (CODES) value = whole(add(value, splat(0.5f)));
    if (c == 0) {
      best = value;
    } else {
      label = if_greater(value, best, splat(static_cast<float>(c)), label);
      best = highest(best, value);
    }
  }
  store_some_ints(job.labels + from, to_ints(label), count);
}

template <bool CODES, bool LOWER>
void label_row(const Labels& job) {
  for (int from = 0; from < job.width;) {
    int until = from + 1;
    while (until < job.width && until < from + LANES && job.left[until] == job.left[from] &&
           job.right[until] == job.right[from]) {
      until++;
    }
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
