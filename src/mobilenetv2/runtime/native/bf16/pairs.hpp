// What the kernels over bfloat16 are written in, beside the words of simd.hpp; every instruction stands in the file of
// bf16/simd/ with the name of the target's vocabulary. It gives:
//   load, load_some            as of floats, of bfloat16 made floats
//   store, store_some          floats rounded to the nearest even
//   Pairs                      two bfloat16 per lane
//   load_pairs                 LANES pairs
//   splat_pair, splat_first    a pair in all lanes; its first number, and a zero
//   join                       pairs of two vectors of floats
//   join_pixels                pairs of LANES channels of two neighbouring pixels of a block
//   PairMask, pair_mask_if, join_pixels_if  of either pixel all channels, or zeros and no access to memory
//   dot                        sum + the products of the first and of the second numbers, in floats
//   Limits, make_limits        what results are clamped to; the lower limit is 0 or below all numbers
//   store_one, store_two       LANES channels of one pixel, and of two neighbours of a block, rounded and clamped
#pragma once

#include "../simd.hpp"
#include MNV2_VOCABULARY
