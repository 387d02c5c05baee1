// The tile of the matrix product over bytes, for the target that MNV2_NAMESPACE names; matmul.hpp runs it.
#pragma once

#include "int8_simd.hpp"
#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr double ADD_UNITS = 1 << 20;

inline Vec between(Vec value, float low, float high) { return lowest(highest(value, splat(low)), splat(high)); }

inline Wide rounded_twice(Wide value, Wide fraction, Wide power) {
  return half_away(mul(down(add(mul(value, fraction), splat_wide(0.5))), power));
}

inline Wide rounded_twice(Wide value, const Twice& by) {
  return rounded_twice(value, splat_wide(by.fraction), splat_wide(by.power));
}

// Sums times their factors, rounded twice.
inline Ints rescaled_twice(const Requantize& to, Ints sum, int channel) {
  return to_ints(rounded_twice(to_wide(sum), load_wide(to.fraction + channel), load_wide(to.power + channel)));
}

inline Ints with_shortcut_twice(const Requantize& to, Ints product, Ints shortcut) {
  const Wide total = add(rounded_twice(mul(to_wide(product), splat_wide(ADD_UNITS)), to.product),
                         rounded_twice(mul(to_wide(shortcut), splat_wide(ADD_UNITS)), to.shortcut));
  return to_ints(rounded_twice(total, to.total));
}

// A sum of the channels from `channel` on, times their factors.
inline Vec rescaled(const Requantize& to, Ints sum, int channel) {
  return to.fraction ? to_floats(rescaled_twice(to, sum, channel)) : mul(to_floats(sum), load(to.factor + channel));
}

// Adds what the shortcut holds to a product.
inline Vec with_shortcut(const Requantize& to, Vec product, Ints shortcut) {
  shortcut = add_ints(shortcut, splat_ints(-to.shortcut_zero));
  if (!to.fraction) return add(product, mul(to_floats(shortcut), splat(to.shortcut_factor)));
  const Ints limited = to_ints(between(product, to.product_low, to.product_high));
  return to_floats(with_shortcut_twice(to, limited, shortcut));
}

// Where a tile's results go: of its pixel i, channel c lies at out + i * pixel + c / BLOCK * block + c % BLOCK.
struct TileOut {
  std::uint8_t* out;
  std::ptrdiff_t pixel, block;
  int channels;  // in use
};

// Bytes of one pixel, in the order of channels.
template <int VECTORS>
struct Plain {
#if defined(MNV2_TARGET_AVX2)
  static constexpr bool LIMITS = true;  // storing limits values to what a byte holds
#else
  static constexpr bool LIMITS = false;
#endif
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    const int rest = channels - vector * LANES;
    return load_byte_ints(from + vector * LANES, rest < LANES ? rest : LANES);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][VECTORS], const TileOut& to) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const int channel = j * LANES;
      std::uint8_t* out = to.out + channel / BLOCK * to.block + channel % BLOCK;
      MNV2_UNROLL for (int i = 0; i < ROWS; i++, out += to.pixel) {
        if (to.channels - channel >= LANES) {
          store_bytes(out, bytes[i][j]);
        } else {
          store_some_bytes(out, bytes[i][j], to.channels - channel);
        }
      }
    }
  }
};

#if defined(MNV2_TARGET_AVX512)

// Panels of two and four vectors have their channels dealt out so that packing brings them back in order: lane l of
// vector j is channel l / 4 * 4 * VECTORS + 4 * j + l % 4.
template <int VECTORS>
struct Packed;

inline Ints quad_of(Ints bytes, int vector) {  // bytes 4 * vector to 4 * vector + 3 of each 128 bits
  const Ints pattern = _mm512_broadcast_i32x4(_mm_setr_epi32(0xffffff00, 0xffffff01, 0xffffff02, 0xffffff03));
  return _mm512_shuffle_epi8(bytes, _mm512_add_epi8(pattern, _mm512_set1_epi32(4 * vector)));
}

template <>
struct Packed<4> {
  static constexpr bool LIMITS = true;
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    const __mmask64 in_use = channels >= 64 ? ~0ull : (1ull << channels) - 1;
    return quad_of(_mm512_maskz_loadu_epi8(in_use, from), vector);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][4], const TileOut& to) {
    const __mmask64 in_use = to.channels >= 64 ? ~0ull : (1ull << to.channels) - 1;
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      const Ints packed = _mm512_packus_epi16(_mm512_packs_epi32(bytes[i][0], bytes[i][1]),
                                              _mm512_packs_epi32(bytes[i][2], bytes[i][3]));
      std::uint8_t* const out = to.out + i * to.pixel;
      if (to.block == BLOCK) {
        _mm512_mask_storeu_epi8(out, in_use, packed);
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(packed));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + to.block), _mm512_extracti32x4_epi32(packed, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * to.block), _mm512_extracti32x4_epi32(packed, 2));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * to.block), _mm512_extracti32x4_epi32(packed, 3));
      }
    }
  }
};

template <>
struct Packed<1> {  // four pixels at a time, channels in order
  static constexpr bool LIMITS = true;
  static Ints shortcut(const std::uint8_t* from, int, int channels) {
    return load_byte_ints(from, channels < LANES ? channels : LANES);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][1], const TileOut& to) {
    const __mmask16 in_use = to.channels >= LANES ? 0xffff : first(to.channels);
    const Ints order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    MNV2_UNROLL for (int i = 0; i < ROWS; i += 4) {
      const Ints last = bytes[ROWS - 1][0];
      const Ints second = i + 1 < ROWS ? bytes[i + 1][0] : last, third = i + 2 < ROWS ? bytes[i + 2][0] : last;
      const Ints fourth = i + 3 < ROWS ? bytes[i + 3][0] : last;
      const Ints four = _mm512_packus_epi16(_mm512_packs_epi32(bytes[i][0], second), _mm512_packs_epi32(third, fourth));
      const Ints sorted = _mm512_permutexvar_epi32(order, four);
      std::uint8_t* const out = to.out + i * to.pixel;
      _mm_mask_storeu_epi8(out, in_use, _mm512_castsi512_si128(sorted));
      if (i + 1 < ROWS) _mm_mask_storeu_epi8(out + to.pixel, in_use, _mm512_extracti32x4_epi32(sorted, 1));
      if (i + 2 < ROWS) _mm_mask_storeu_epi8(out + 2 * to.pixel, in_use, _mm512_extracti32x4_epi32(sorted, 2));
      if (i + 3 < ROWS) _mm_mask_storeu_epi8(out + 3 * to.pixel, in_use, _mm512_extracti32x4_epi32(sorted, 3));
    }
  }
};

template <>
struct Packed<2> {
  static constexpr bool LIMITS = true;
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    const __mmask32 in_use = channels >= 32 ? ~0u : (1u << channels) - 1;
    const Ints spread = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3),
                                                 _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(in_use, from)));
    return quad_of(spread, vector);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][2], const TileOut& to) {
    const __mmask32 in_use = to.channels >= 32 ? ~0u : (1u << to.channels) - 1;
    const auto put = [&](int i, __m256i pixel) {
      std::uint8_t* const out = to.out + i * to.pixel;
      if (to.block == BLOCK) {
        _mm256_mask_storeu_epi8(out, in_use, pixel);
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(pixel));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + to.block), _mm256_extracti128_si256(pixel, 1));
      }
    };
    MNV2_UNROLL for (int i = 0; i < ROWS; i += 2) {
      const int next = i + 1 < ROWS ? i + 1 : i;
      const Ints pair = _mm512_packus_epi16(_mm512_packs_epi32(bytes[i][0], bytes[i][1]),
                                            _mm512_packs_epi32(bytes[next][0], bytes[next][1]));
      const Ints sorted = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), pair);
      put(i, _mm512_castsi512_si256(sorted));
      if (next > i) put(next, _mm512_extracti64x4_epi64(sorted, 1));
    }
  }
};

#endif

template <int VECTORS>
struct OrderChoice {
  using Type = Plain<VECTORS>;
};
#if defined(MNV2_TARGET_AVX512)
template <>
struct OrderChoice<1> {
  using Type = Packed<1>;
};
template <>
struct OrderChoice<2> {
  using Type = Packed<2>;
};
template <>
struct OrderChoice<4> {
  using Type = Packed<4>;
};
#endif
template <int VECTORS>
using OrderOf = typename OrderChoice<VECTORS>::Type;

// One pixel's sums, whatever becomes of them.
template <class Order, int VECTORS>
inline void finish_pixel(const Matmul<std::uint8_t>& job, const Panel& panel, int pixel, const std::int32_t* sums) {
  const Requantize& to = job.requantize;
  const int at = panel.channel - job.out_channel, channels = job.channels - panel.channel;
  Ints bytes[1][VECTORS];
  for (int j = 0; j < VECTORS; j++) {
    const int channel = panel.channel + j * LANES, rest = channels - j * LANES;
    Vec value = rescaled(to, load_ints(sums + j * LANES), channel);
    if (job.shortcut) {
      const std::uint8_t* const more = job.shortcut + pixel * job.shortcut_pixel + panel.channel;
      value = with_shortcut(to, value, Order::shortcut(more, j, channels));
    }
    value = between(value, job.low, job.high);
    if (to.real) {
      store_some(to.real + pixel * job.out_pixel + channel, mul(value, splat(to.real_factor)),
                 rest < LANES ? rest : LANES);
    }
    bytes[0][j] = add_ints(to_ints(value), splat_ints(to.zero));
  }
  if (to.real) return;
  std::uint8_t* const out = job.out + pixel * job.out_pixel + at / BLOCK * job.out_block + at % BLOCK;
  Order::template store<1>(bytes, {out, job.out_pixel, job.out_block, channels});
}

template <int VECTORS>
MNV2_NOINLINE void finish_pixels(const Matmul<std::uint8_t>& job, const Panel& panel, int from, int count,
                                 const std::int32_t* sums) {
  for (int i = 0; i < count; i++, sums += VECTORS * LANES) {
    if (job.requantize.real) {
      finish_pixel<Plain<VECTORS>, VECTORS>(job, panel, from + i, sums);
    } else {
      finish_pixel<OrderOf<VECTORS>, VECTORS>(job, panel, from + i, sums);
    }
  }
}

// A tile's sums, rounded once, to bytes.
template <int ROWS, int VECTORS>
inline void finish_tile(const Matmul<std::uint8_t>& job, const Panel& panel, int from, Ints (&sum)[ROWS][VECTORS]) {
  using Order = OrderOf<VECTORS>;
  const Requantize& to = job.requantize;
  const int at = panel.channel - job.out_channel, channels = job.channels - panel.channel;
  if (to.upward) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const Wide factor = load_wide(to.fraction + panel.channel + j * LANES);
      const Wide offset = load_wide(to.power + panel.channel + j * LANES);
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
        sum[i][j] = to_ints_cut(add(mul(to_wide(sum[i][j]), factor), offset));
        if (!Order::LIMITS) sum[i][j] = to_ints(between(to_floats(sum[i][j]), job.low, job.high));
      }
    }
  } else if (Order::LIMITS && to.saturating && !job.shortcut) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const Vec factor = load(to.factor + panel.channel + j * LANES);
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = to_ints(mul(to_floats(sum[i][j]), factor));
    }
  } else {
    const Vec share = splat(to.shortcut_factor), low = splat(job.low), high = splat(job.high);
    const Ints offset = splat_ints(-to.shortcut_zero);
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const Vec factor = load(to.factor + panel.channel + j * LANES);
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
        Vec value = mul(to_floats(sum[i][j]), factor);
        if (job.shortcut) {
          const std::uint8_t* const more = job.shortcut + (from + i) * job.shortcut_pixel + panel.channel;
          value = add(value, mul(to_floats(add_ints(Order::shortcut(more, j, channels), offset)), share));
        }
        sum[i][j] = to_ints(lowest(highest(value, low), high));
      }
    }
  }
  if (to.zero) {
    const Ints zero = splat_ints(to.zero);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
      MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = add_ints(sum[i][j], zero);
    }
  }
  std::uint8_t* const out = job.out + from * job.out_pixel + at / BLOCK * job.out_block + at % BLOCK;
  Order::template store<ROWS>(sum, {out, job.out_pixel, job.out_block, channels});
}

// The tile of ROWS pixels x VECTORS vectors at pixel `from`. AHEAD: a line of `ahead` is fetched with each step.
template <int ROWS, int VECTORS, bool AHEAD>
MNV2_NOINLINE void tile(const Matmul<std::uint8_t>& job, const Panel& panel, int from, const std::int8_t* ahead) {
  Ints sum[ROWS][VECTORS];
  MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
    const Ints start = load_ints(job.bias + panel.channel + j * LANES);
    MNV2_UNROLL for (int i = 0; i < ROWS; i++) sum[i][j] = start;
  }
  const std::ptrdiff_t pixel = job.in_pixel;
  const std::int8_t* weights = job.weights + panel.weights;
  const std::uint8_t* const tile_in = job.in + from * pixel;
  const std::ptrdiff_t segment_weights = static_cast<std::ptrdiff_t>(job.depth) * (VECTORS * LANES);
  for (int r = 0; r < job.row_count; r++) {
    const std::uint8_t* segment = tile_in + r * job.in_row;
    for (int s = 0; s < job.segment_count; s++, segment += job.in_segment) {
      const std::uint8_t* in = segment;
      const std::int8_t* const end = weights + segment_weights;
      for (; weights != end; weights += 4 * VECTORS * LANES, in += 4) {
        if constexpr (AHEAD) {
          prefetch(ahead);
          ahead += 64;
        }
        Ints w[VECTORS];
        MNV2_UNROLL for (int j = 0; j < VECTORS; j++) w[j] = load_weights(weights + 4 * j * LANES);
        MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
          const Ints value = splat_quad(in + i * pixel);
          MNV2_UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = dot(sum[i][j], value, w[j]);
        }
      }
    }
  }
  if ((!job.requantize.fraction || job.requantize.upward) && !job.requantize.real) {
    finish_tile(job, panel, from, sum);
    return;
  }
  alignas(64) std::int32_t sums[ROWS * VECTORS * LANES];
  MNV2_UNROLL for (int i = 0; i < ROWS; i++) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) store_ints(sums + (i * VECTORS + j) * LANES, sum[i][j]);
  }
  finish_pixels<VECTORS>(job, panel, from, ROWS, sums);
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
