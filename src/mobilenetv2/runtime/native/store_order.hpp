// How a tile of sums that have become codes is stored as bytes, for the target that MNV2_NAMESPACE names.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

// Where a tile's results go: of its pixel i, channel c lies at out + i * pixel + c / BLOCK * block + c % BLOCK.
struct TileOut {
  std::uint8_t* out;
  std::ptrdiff_t pixel, block;
  int first;     // of the tile's channels in their block
  int channels;  // in use
};

// Panels of VECTORS vectors whose results become bytes have their channels interleaved in the order that the pack
// instructions undo: lane l of vector j is channel l / 4 * 4 * VECTORS + 4 * j + l % 4. A vocabulary specialises this
// for the panels that has_interleaved() names. CLAMPS: storing clamps values to what a byte holds. PIXELS_TOGETHER: as
// many pixels are packed together. shortcut: the bytes that belong to the lanes of a vector. store: the tile.
template <int VECTORS>
struct Interleaved;

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
