#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <cstdint>
#include <stdexcept>
#include <tuple>

#include "resample.hpp"

namespace nb = nanobind;
using mobilenetv2::Filter;

namespace {

// The beginning of what the Arrow C data interface calls an ArrowArray.
struct ArrowArray {
  std::int64_t length, null_count, offset, buffer_count, child_count;
  const void** buffers;
  ArrowArray** children;
};

using Pair = std::tuple<int, int>;  // of rows and columns

void resample(const nb::capsule& image, const Pair& size, const Pair& resized, const Pair& offset, Filter filter,
              const nb::ndarray<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>& pixels) {
  const auto [in_rows, in_columns] = size;
  const auto [rows, columns] = resized;
  const auto [top, left] = offset;
  const int height = static_cast<int>(pixels.shape(0)), width = static_cast<int>(pixels.shape(1));
  const auto* const array = static_cast<const ArrowArray*>(image.data("arrow_array"));
  const std::int64_t count = std::int64_t{in_rows} * in_columns;
  if (in_rows < 1 || in_columns < 1 || array->length != count || array->offset || array->child_count != 1 ||
      array->children[0]->length != 4 * count || array->children[0]->buffer_count != 2) {
    throw std::invalid_argument("no array of pixels of four bytes");
  }
  if (pixels.shape(2) != 3 || top < 0 || left < 0 || height > rows - top || width > columns - left) {
    throw std::invalid_argument("a part that is not within the image");
  }
  const auto* const in = static_cast<const std::uint8_t*>(array->children[0]->buffers[1]);
  std::uint8_t* const out = pixels.data();
  const nb::gil_scoped_release released;
  mobilenetv2::resample(in, in_rows, in_columns, rows, columns, {top, left, height, width}, filter, out);
}

}  // namespace

void bind_images(nb::module_& module) {
  nb::enum_<Filter>(module, "Filter")
      .value("BILINEAR", Filter::BILINEAR)
      .value("BICUBIC", Filter::BICUBIC)
      .value("LANCZOS", Filter::LANCZOS);
  module.def(
      "resample", &resample, nb::arg("image"), nb::arg("size"), nb::arg("resized"), nb::arg("offset"),
      nb::arg("filter"), nb::arg("pixels").noconvert(),
      "Pillow's resizing: `image` is what an RGB image of (height, width) `size` exports as an Arrow array; `pixels` "
      "(height, width, 3) gets the part of the `resized` image that begins at (row, column) `offset`.");
}
