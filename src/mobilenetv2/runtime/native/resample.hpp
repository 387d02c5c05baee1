// Pillow's resizing of 8-bit images to the bit, of nothing but the crop that is kept.
#pragma once

#include <cstdint>

namespace mobilenetv2 {

enum class Filter { BILINEAR, BICUBIC, LANCZOS };

// Rows and columns of an image, from the one of that number on.
struct Part {
  int top, left, height, width;
};

// in: (in_rows, in_columns, 4) bytes, whose fourth means nothing. out: (part.height, part.width, 3), the part of the
// image resized to (rows, columns).
void resample(const std::uint8_t* in, int in_rows, int in_columns, int rows, int columns, const Part& part,
              Filter filter, std::uint8_t* out);

}  // namespace mobilenetv2
