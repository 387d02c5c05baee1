// Bilinear resizes with the centres of the corner pixels aligned, over floats and over bytes.

#include <algorithm>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

// Where output i of `size` lies among `have` inputs.
struct Place {
  int low, high;
  float share;  // of `high`

  Place(int i, int size, int have) {
    const double at = size > 1 ? static_cast<double>(i) * (have - 1) / (size - 1) : 0.0;
    low = std::min(static_cast<int>(at), have - 1);
    high = std::min(low + 1, have - 1);
    share = static_cast<float>(at - low);
  }
};

// The same in steps of 2**-10, as TensorFlow Lite's integer RESIZE_BILINEAR has it.
constexpr int PLACE_BITS = 10, PLACE_UNIT = 1 << PLACE_BITS;

struct FixedPlace {
  int low, high, share;

  FixedPlace(int i, int size, int have) {
    const long long last = static_cast<long long>(have - 1) << PLACE_BITS;
    const long long step = size > 1 ? (last + (size - 1) / 2) / (size - 1) : 0;
    const long long at = std::min(i * step, last);
    low = static_cast<int>(at >> PLACE_BITS);
    high = std::min(low + 1, have - 1);
    share = static_cast<int>(at & (PLACE_UNIT - 1));
  }
};

// The four neighbours of an output pixel, each its channels side by side.
template <class T>
struct Corners {
  const T *upper_left, *upper_right, *lower_left, *lower_right;
};

// Calls pixel(corners, x, y, out) for every output pixel, rows in parallel; `out` counts pixels of all images.
template <class P, class T, class F>
void for_pixels(Pool& pool, int images, const Step& step, const T* in, const F& pixel) {
  const std::ptrdiff_t channels = step.out_channels;
  pool.parallel(images * step.out_height, [&](int task, int) {
    const P y(task % step.out_height, step.out_height, step.in_height);
    const T* const plane = in + static_cast<std::ptrdiff_t>(task / step.out_height) * step.in_height * step.in_width * channels;
    const T* const upper = plane + static_cast<std::ptrdiff_t>(y.low) * step.in_width * channels;
    const T* const lower = plane + static_cast<std::ptrdiff_t>(y.high) * step.in_width * channels;
    for (int i = 0; i < step.out_width; i++) {
      const P x(i, step.out_width, step.in_width);
      const std::ptrdiff_t left = x.low * channels, right = x.high * channels;
      pixel(Corners<T>{upper + left, upper + right, lower + left, lower + right}, x, y,
            static_cast<std::ptrdiff_t>(task) * step.out_width + i);
    }
  });
}

template <class T>
void resize_floats(const Run<T>& run, const Step& step) {
  float* const out = run.floats(step.output);
  const float* const in = run.floats(step.inputs[0]);
  const auto pixel = [&](const Corners<float>& at, const Place& x, const Place& y, std::ptrdiff_t index) {
    float* const to = out + index * step.out_channels;
    for (int c = 0; c < step.out_channels; c++) {
      const float near = at.upper_left[c] * (1 - y.share) + at.lower_left[c] * y.share;
      const float far = at.upper_right[c] * (1 - y.share) + at.lower_right[c] * y.share;
      to[c] = near * (1 - x.share) + far * x.share;
    }
  };
  for_pixels<Place>(*run.pool, run.images.count, step, in, pixel);
}

// To bytes or, where the output is an answer, to what they stand for.
void resize_bytes(const Run<std::uint8_t>& run, const Step& step) {
  const bool to_answer = step.output <= ANSWER;
  float* const floats = to_answer ? run.answer(step.output) : nullptr;
  std::uint8_t* const bytes = to_answer ? nullptr : run.tensor(step.output);
  const int middle = step.halves_from << (2 * PLACE_BITS), half = 1 << (2 * PLACE_BITS - 1);
  const auto pixel = [&](const Corners<std::uint8_t>& at, const FixedPlace& x, const FixedPlace& y,
                         std::ptrdiff_t index) {
    for (int c = 0; c < step.out_channels; c++) {
      const int near = at.upper_left[c] * (PLACE_UNIT - y.share) + at.lower_left[c] * y.share;
      const int far = at.upper_right[c] * (PLACE_UNIT - y.share) + at.lower_right[c] * y.share;
      const int value = near * (PLACE_UNIT - x.share) + far * x.share;
      const int code = (value + (value >= middle ? half : half - 1)) >> (2 * PLACE_BITS);
      if (to_answer) {
        floats[index * step.out_channels + c] =
            static_cast<float>(code - step.rounding.input_zero) * step.rounding.float_scale;
      } else {
        bytes[index * step.out_channels + c] = static_cast<std::uint8_t>(code);
      }
    }
  };
  for_pixels<FixedPlace>(*run.pool, run.images.count, step, run.tensor(step.inputs[0]), pixel);
}

}  // namespace

template <class T>
void run_resize(const Run<T>& run, const Step& step) {
  if constexpr (sizeof(T) == 1) {
    if (!step.reads_floats) return resize_bytes(run, step);
  }
  resize_floats(run, step);
}

template void run_resize<float>(const Run<float>&, const Step&);
template void run_resize<std::uint8_t>(const Run<std::uint8_t>&, const Step&);

}  // namespace mobilenetv2
