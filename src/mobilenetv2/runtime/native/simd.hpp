// A small vector vocabulary: what the kernels are written in. The kernels are compiled once per target: MNV2_NAMESPACE
// names the target's namespace, MNV2_VOCABULARY the file of simd/ with every instruction that they use. All names have
// internal linkage, so that no two targets can share an instruction.
//
// A vocabulary gives, for floats:
//   Vec, LANES                 a vector of LANES floats
//   PANEL_VECTORS              the widest panel of output vectors of a register tile
//   tile_rows(vectors), byte_tile_rows(vectors)  the pixels that go with so many output vectors
//   load, store                LANES floats
//   load_some, store_some      the first `count` lanes; others read as zero and are left alone in memory
//   Mask, mask_if, load_if     all lanes, or zeros and no access to memory
//   splat, zero                one value in all lanes
//   fma                        a * b + c, rounded once where the target can
//   add, sub, mul, lowest, highest
//   whole                      without the fraction
//   if_greater                 a > b ? x : y, per lane; any_greater: whether a > b in any
//   STEPS, Steps, load_steps   neighbours in the depth of a pixel, which a tile multiplies one after another
//   fma_step<STEP>             one of them, in all lanes, * b + c
//   nearest, off_whole         the nearest whole number; the value less that
//   larger_magnitude, with_sign  of two, without its sign; a positive value with another's sign
//   in_register                the value itself, not to be read from memory again
// And where MNV2_FLOAT_HALVES is defined, the same for half of a vector, HalfVec:
//   load_half, load_some_half, splat_half; store, store_some, fma, add, lowest, highest
// For bytes and 32-bit integers:
//   Ints                       LANES integers of 32 bits
//   load_ints, store_ints, store_some_ints, splat_ints, add_ints
//   load_quads, sum_lanes      the first `count` lanes of four bytes each, others are 0; the sum of all lanes
//   add_quads                  sum + the four bytes of each lane
//   INPUT_OFFSET               0, or 128: inputs are bytes less this, signed. A bias is more by as many times the sum
//                              of its weights
//   load_weights               four signed bytes per lane
//   Sums, to_sums, from_sums   what a sum of products is kept in, of Ints and as Ints
//   dot                        sum + the products of four inputs and four signed bytes, exactly
//   INPUT_STEPS, InputSteps, load_input_steps, dot_step<STEP>  as STEPS, of quads of inputs
//   load_input_step            the first of them alone
//   to_floats, to_ints         to_ints rounds to the nearest even
//   load_byte_ints             one byte per lane
//   store_bytes, store_some_bytes  of values within 0..255; STORE_CLAMPS: of any values, clamped
//   has_interleaved(vectors)   whether Interleaved<vectors> (store_order.hpp) exists
// Where MNV2_PAIRS is defined, which multiplies two steps of the depth at a time, in 16 bits:
//   load_bytes, store_widened, store_widened_quad  16 inputs, and the first four, to 16 bits
//   load_weight_pairs, splat_pair, dot_pairs  two weights per lane; two widened inputs in all lanes; their products'
//   sum add_words                  of 16 bits column_pairs               of four channels' taps of two rows, of four
//   bytes each, the pairs of the first three columns row_pairs                  two pixels of a block, interleaved and
//   widened, by quads of channels store_quads                packs and clamps a quad of channels of the first `count`
//   of four pixels of a block
// For doubles, two vectors for one of Ints:
//   Wide, load_wide, splat_wide, to_wide, add, mul
//   to_ints, truncate          of whole numbers; without the fraction
//   down, half_away            to the whole number below; to the nearest, halves away from zero
// one_step.hpp has those of steps, offsets and sums for targets without them.
// And where MNV2_PIXEL_VECTORS is defined, vectors of PIXELS pixels of one block of channels, QUADS quads of channels:
//   load_quad                  four floats, bytes or doubles, repeated
//   splat_byte, PixelMask, pixel_mask, load_pixels, even_pixels, odd_pixels  of inputs
//   interleave                 three rows and a zero per channel, so that one dot product is three taps
//   store_pixels               packs the four quads of PIXELS pixels, clamped to what a byte holds
// And where MNV2_FOURS is defined, for tensors in fours (kernels.hpp), of which a vector is a group:
//   FOURS_VECTORS, FOURS_ROWS  the widest panel of a tile, and its pixels
//   FourMask, four_mask        the first `count` pixels
//   load_four, load_some_four  a group; others than those of the mask are `outside`
//   halves_swapped, across     two pixels of each channel in the other two's place; of two such vectors, the first two
//                              pixels of one and the last two of the other
//   later_taps                 weights that begin a pixel later
//   store_four                 a group of four pixels' sums of a block, clamped to what a byte holds
//   store_four_pixels          the same in blocks: the first `count` pixels
// And where MNV2_HALVES is defined, which needs the above:
//   HalfInts, first_half, whole_of  half of a vector, that of a whole, and as a whole
//   load_half_weights, half_dot     as of a whole
#pragma once

#include MNV2_VOCABULARY
#include "dialect.hpp"

// What is inlined, but in a small library.
#if defined(MNV2_SMALL)
#define MNV2_INLINE_FOR_SPEED MNV2_NOINLINE
#else
#define MNV2_INLINE_FOR_SPEED inline
#endif

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Whether the library is to be small: fewer tiles and modes are then compiled.
#if defined(MNV2_SMALL)
constexpr bool IS_SMALL = true;
#else
constexpr bool IS_SMALL = false;
#endif

// Fetches a cache line into the second-level cache.
inline void prefetch(const void* from) { MNV2_PREFETCH(from); }

#if !defined(MNV2_FOURS)
constexpr int FOURS_VECTORS = 0, FOURS_ROWS = 0;
#endif
#if defined(MNV2_HALVES)
constexpr bool HALVES = true;
#else
constexpr bool HALVES = false;
#endif
#if defined(MNV2_FLOAT_HALVES)
constexpr bool FLOAT_HALVES = true;
#else
constexpr bool FLOAT_HALVES = false;
#endif

#if defined(MNV2_PAIRS)
constexpr int WEIGHTS_TOGETHER = 2;
#else
constexpr int WEIGHTS_TOGETHER = Types<std::uint8_t>::TOGETHER;
#endif

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
