// Where the pixels of a stage's tensors lie, dense or in blocks.
#pragma once

#include <cstring>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

// Where pixels lie: `pixel` and `block` are elements from a pixel to the next and from a block of channels to the next.
template <class T>
struct Pixels {
  T* data;
  std::ptrdiff_t pixel, block;
  int fours_width = 0;  // of a row in fours
  int row_pixels = 0;   // from a row to the next, where that is more than its width

  std::ptrdiff_t row(int width) const {
    return (row_pixels ? row_pixels : fours_width ? up_to_four(width) : width) * pixel;
  }
};

// Copies dense pixels into a blocked tensor, whose last block is filled up with zeros.
template <class T>
void to_blocks(const T* in, int count, int channels, const Pixels<T>& out) {
  for (int p = 0; p < count; p++, in += channels) {
    T* to = out.data + p * out.pixel;
    int c = 0;
    for (; c + BLOCK <= channels; c += BLOCK, to += out.block) std::memcpy(to, in + c, BLOCK * sizeof(T));
    if (c < channels) {
      std::memset(to, 0, BLOCK * sizeof(T));
      std::memcpy(to, in + c, static_cast<std::size_t>(channels - c) * sizeof(T));
    }
  }
}

template <class T>
void from_blocks(const T* in, std::ptrdiff_t block, int count, int channels, const Pixels<T>& out) {
  for (int p = 0; p < count; p++) {
    const T* from = in + p * BLOCK;
    T* to = out.data + p * out.pixel;
    for (int c = 0; c < channels; c += BLOCK, from += block, to += out.block) {
      if (channels - c >= BLOCK) {
        std::memcpy(to, from, BLOCK * sizeof(T));
      } else {
        std::memcpy(to, from, static_cast<std::size_t>(channels - c) * sizeof(T));
      }
    }
  }
}

}  // namespace
}  // namespace mobilenetv2
