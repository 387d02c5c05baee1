// Vectors of float and bfloat16 maps, and loops over channels. Every instruction stands in the vocabulary of the
// runtime (runtime/native/simd.hpp) and in the file of the same name in nn/native/simd:
//   load_lanes, store_lanes    `count` lanes, LANES or 8 of 16; float to bfloat16 rounds to even
//   inside(at, value)          `value` where 0 < at < 6, else 0
//   load_factor, splat_factor  a part, first or second, of pairs of bfloat16 as floats; or whole pairs where
//                              MULTIPLIES_PAIRS
//   multiply_add_pairs         a * b + sum of what these give
//   store_pairs                two rows of bfloat16 side by side, of `count` lanes
#pragma once

#include "../../runtime/native/simd.hpp"
#include "passes.hpp"
#include MNV2_VOCABULARY

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int GROUP = LANES == 16 ? 32 : 16;

// Calls body(channel, lanes) for each vector of channels.
template <class Body>
void each_vector(int channels, Body&& body) {
  for (int c = 0; c < channels; c += LANES) body(c, channels - c < LANES ? channels - c : LANES);
}

// Calls body(channel, channels, Size<V>) for groups of V = 4 vectors, then of 2 and 1 for the rest.
template <int V>
struct Size {
  static constexpr int vectors = V;
};
template <class Body>
void each_group(int channels, Body&& body) {
  int c = 0;
  for (; c + 4 * LANES <= channels; c += 4 * LANES) body(c, 4 * LANES, Size<4>());
  for (; c + 2 * LANES <= channels; c += 2 * LANES) body(c, 2 * LANES, Size<2>());
  for (; c < channels; c += LANES) body(c, channels - c < LANES ? channels - c : LANES, Size<1>());
}

template <int V>
inline int lanes_of(int v, int channels) {
  return V == 1 ? channels : (static_cast<void>(v), LANES);
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
