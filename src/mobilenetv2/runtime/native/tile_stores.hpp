// The ways to store a tile of bytes, for the target that MNV2_NAMESPACE names: channels in order, in fours, or as
// store_order.hpp has it.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Stores bytes one vector at a time, channels in order.
template <int VECTORS>
struct InOrder {
  static constexpr bool CLAMPS = STORE_CLAMPS;
  static constexpr int PIXELS_TOGETHER = LANES == 16 ? 1 : 16;  // all of a tile where its sums are on the stack anyway
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    const int rest = channels - vector * LANES;
    return load_byte_ints(from + vector * LANES, rest < LANES ? rest : LANES);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][VECTORS], const TileOut& to) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const int channel = j * LANES, at = to.first + channel;
      std::uint8_t* out = to.out + at / BLOCK * to.block + at % BLOCK - to.first;
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

template <int VECTORS, bool INTERLEAVED>
struct OrderChoice {
  using Type = InOrder<VECTORS>;
};
template <int VECTORS>
struct OrderChoice<VECTORS, true> {
  using Type = Interleaved<VECTORS>;
};
template <int VECTORS>
using OrderOf = typename OrderChoice<VECTORS, has_interleaved(VECTORS)>::Type;

#if defined(MNV2_FOURS)

// Stores bytes with their channels in order, four pixels of a vector at a time.
template <int VECTORS>
struct InOrderPacked {
  static constexpr bool CLAMPS = true;
  static constexpr int PIXELS_TOGETHER = 4;
  static Ints shortcut(const std::uint8_t* from, int vector, int channels) {
    return InOrder<VECTORS>::shortcut(from, vector, channels);
  }
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][VECTORS], const TileOut& to) {
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      const int channel = j * LANES, at = to.first + channel;
      Ints vector[ROWS][1];
      MNV2_UNROLL for (int i = 0; i < ROWS; i++) vector[i][0] = bytes[i][j];
      std::uint8_t* const out = to.out + at / BLOCK * to.block + at % BLOCK - to.first;
      Interleaved<1>::store<ROWS>(vector, {out, to.pixel, to.block, at % BLOCK, to.channels - channel});
    }
  }
};

// Stores bytes in fours. What lies behind the last pixel of a row is the last pixel again.
template <int VECTORS>
struct InFours {
  static constexpr bool CLAMPS = true;
  static constexpr int PIXELS_TOGETHER = FOUR;
  template <int ROWS>
  static void store(const Ints (&bytes)[ROWS][VECTORS], const TileOut& to) {
    constexpr int LAST = ROWS - 1;
    MNV2_UNROLL for (int j = 0; j < VECTORS; j++) {
      MNV2_UNROLL for (int i = 0; i < ROWS; i += FOUR) {
        store_four(to.out + j * to.block + i * BLOCK, bytes[i][j], bytes[i + 1 < ROWS ? i + 1 : LAST][j],
                   bytes[i + 2 < ROWS ? i + 2 : LAST][j], bytes[i + 3 < ROWS ? i + 3 : LAST][j]);
      }
    }
  }
};

#endif

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
