// Bilinear resizes with the centres of the corner pixels aligned, over floats and over bytes, and the best class of
// every resized pixel.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

// How values between pixels are computed; rounding.py says the same in NumPy.
enum class Arithmetic {
  FLOATS,          // of floats: rows first, then columns
  BFLOATS,         // the same of bfloat16
  UNSIGNED_CODES,  // of bytes, as TensorFlow Lite's uint8: in float32, halves up
  SIGNED_CODES,    // of bytes, as its int8: places and shares in steps of 2**-10, halves away from 128
};

constexpr int SHARE_BITS = 10, SHARE_UNIT = 1 << SHARE_BITS;

// Where output i of `size` lies among `have` inputs: between `low` and `high`, of which `share` is the second's.
struct Place {
  int low, high;
  float share;

  Place(Arithmetic arithmetic, int i, int size, int have) {
    const int steps = std::max(size - 1, 1);
    if (arithmetic == Arithmetic::SIGNED_CODES) {
      const long long last = static_cast<long long>(have - 1) << SHARE_BITS;
      const long long at = std::min(i * ((last + (size - 1) / 2) / steps), last);
      low = static_cast<int>(at >> SHARE_BITS);
      high = std::min(low + 1, have - 1);
      share = static_cast<float>(at & (SHARE_UNIT - 1));
    } else if (arithmetic == Arithmetic::UNSIGNED_CODES) {
      const float at = static_cast<float>(i) * (static_cast<float>(have - 1) / static_cast<float>(steps));
      low = static_cast<int>(at);
      high = std::min(static_cast<int>(std::ceil(at)), have - 1);
      share = at - static_cast<float>(low);
    } else {
      const double at = static_cast<double>(i) * (have - 1) / steps;
      low = std::min(static_cast<int>(at), have - 1);
      high = std::min(low + 1, have - 1);
      share = static_cast<float>(at - low);
    }
  }
};

constexpr bool is_of_codes(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::UNSIGNED_CODES || arithmetic == Arithmetic::SIGNED_CODES;
}

// The rows of one band, in turn: `upper` and `lower` hold, for each input column, the two rows around the output row
// times their shares; where float32 is exact or rows come first, `upper` is the sum of both.
template <class T, Arithmetic A>
class Band {
 public:
  Band(const Run<T>& run, const Step& step, int slot) : step_(step), channels_(step.out_channels) {
    float* const scratch = reinterpret_cast<float*>(run.scratch_of(step, slot));
    const std::size_t row = static_cast<std::size_t>(step.in_width) * static_cast<std::size_t>(channels_);
    upper_ = scratch;
    lower_ = upper_ + row;
    share_ = lower_ + row;
    left_ = reinterpret_cast<std::int32_t*>(share_ + step.out_width);
    right_ = left_ + step.out_width;
    ends_ = right_ + step.out_width;
    labels_ = ends_ + step.out_width;
    possible_ = reinterpret_cast<std::uint8_t*>(labels_ + step.out_width);
    const bool labels = step.kind == StepKind::LABELS;
    prunes_ = labels && channels_ <= MOST_POSSIBLE && A != Arithmetic::SIGNED_CODES;
    bool exact = labels;
    for (int i = 0; i < step.out_height; i++) exact = exact && in_256ths(Place(A, i, step.out_height, step.in_height));
    for (int i = 0; i < step.out_width; i++) {
      const Place x(A, i, step.out_width, step.in_width);
      exact = exact && in_256ths(x);
      left_[i] = x.low * channels_;
      right_[i] = x.high * channels_;
      share_[i] = x.share;
    }
    for (int i = step.out_width - 1; i >= 0; i--) {
      const bool same = i + 1 < step.out_width && left_[i] == left_[i + 1] && right_[i] == right_[i + 1];
      ends_[i] = same ? ends_[i + 1] : i + 1;
    }
    together_ = A != Arithmetic::UNSIGNED_CODES || exact;
  }
  static std::size_t floats(const Step& step) {
    return 2 * static_cast<std::size_t>(step.in_width) * static_cast<std::size_t>(step.out_channels) +
           5 * static_cast<std::size_t>(step.out_width) +
           (static_cast<std::size_t>(step.in_width) * (MOST_POSSIBLE + 1) + sizeof(float) - 1) / sizeof(float);
  }

  using Value = std::conditional_t<A == Arithmetic::FLOATS, float, T>;

  // Brings output row y of an image to hand.
  void enter(const Value* image, int y) {
    const Place place(A, y, step_.out_height, step_.in_height);
    const int count = step_.in_width * channels_;
    const Value* const above = image + static_cast<std::ptrdiff_t>(place.low) * count;
    const Value* const below = image + static_cast<std::ptrdiff_t>(place.high) * count;
    const float share = place.share, rest = (A == Arithmetic::SIGNED_CODES ? SHARE_UNIT : 1) - share;
    const auto blend = [&](int i) {
      const float first = to_float(above[i]) * rest, second = to_float(below[i]) * share;
      upper_[i] = together_ ? first + second : first;
      lower_[i] = second;
    };
    if (!prunes_) {
      for (int i = 0; i < count; i++) blend(i);
      return;
    }
    if (image != image_ || place.low != row_) {
      image_ = image;
      row_ = place.low;
      find_possible(above, image + static_cast<std::ptrdiff_t>(std::min(place.low + 1, step_.in_height - 1)) * count);
    }
    for (int x = 0; x < step_.in_width; x++) {
      const std::uint8_t* const possible = possible_ + x * (MOST_POSSIBLE + 1);
      for (int i = 1; possible[0] > 1 && i <= possible[0]; i++) {
        blend(x * channels_ + possible[i]);
        blend(std::min(x + 1, step_.in_width - 1) * channels_ + possible[i]);
      }
    }
  }

  // Output i of the row at hand: a value, or a code.
  float value(int i, int channel) const {
    const int left = left_[i] + channel, right = right_[i] + channel;
    const float share = share_[i];
    if constexpr (!is_of_codes(A)) {
      return upper_[left] * (1 - share) + upper_[right] * share;
    } else if constexpr (A == Arithmetic::UNSIGNED_CODES) {
      const float near = upper_[left] * (1 - share) + lower_[left] * (1 - share);
      return std::trunc(near + upper_[right] * share + lower_[right] * share + 0.5f);
    } else {
      constexpr int HALF = 1 << (2 * SHARE_BITS - 1), MIDDLE = 128 << (2 * SHARE_BITS);
      const int across = static_cast<int>(share);
      const int sum = static_cast<int>(upper_[left]) * (SHARE_UNIT - across) + static_cast<int>(upper_[right]) * across;
      return static_cast<float>((sum + (sum > MIDDLE ? HALF : HALF - 1)) >> (2 * SHARE_BITS));
    }
  }

  // The best class of each pixel of the row at hand, the first of several.
  const std::int32_t* labels(const Kernels<T>& kernels) {
    if constexpr (A == Arithmetic::SIGNED_CODES) {
      for (int i = 0; i < step_.out_width; i++) {
        float best = value(i, 0);
        labels_[i] = 0;
        for (int c = 1; c < channels_; c++) {
          const float other = value(i, c);
          if (other > best) labels_[i] = c;
          best = std::max(best, other);
        }
      }
    } else {
      const bool codes = A == Arithmetic::UNSIGNED_CODES;
      const std::uint8_t* const possible = prunes_ ? possible_ : nullptr;
      kernels.labels({upper_, together_ ? nullptr : lower_, codes, channels_, step_.out_width, left_, right_, ends_,
                      share_, possible, labels_});
    }
    return labels_;
  }

 private:
  // For each column, the classes that may be the best between it and the next, and between two rows: those that
  // somewhere reach what the class with the highest lowest corner never falls below. Rounding may lift a value by a
  // millionth of the largest one, and a code by a half.
  void find_possible(const Value* upper, const Value* lower) {
    for (int x = 0; x < step_.in_width; x++) {
      const int left = x * channels_, right = std::min(x + 1, step_.in_width - 1) * channels_;
      int surest = 0;
      float surely = 0, largest = 0, highest[MOST_POSSIBLE];
      for (int c = 0; c < channels_; c++) {
        const float corners[] = {to_float(upper[left + c]), to_float(upper[right + c]), to_float(lower[left + c]),
                                 to_float(lower[right + c])};
        const float least = std::min(std::min(corners[0], corners[1]), std::min(corners[2], corners[3]));
        highest[c] = std::max(std::max(corners[0], corners[1]), std::max(corners[2], corners[3]));
        if (c == 0 || least > surely) surest = c;
        surely = c == 0 ? least : std::max(surely, least);
        largest = std::max(largest, std::max(highest[c], -least));
      }
      const float limit = surely - 1e-6f * largest;
      const float first_limit = limit - (is_of_codes(A) ? 1.0f : 0.0f);  // of those that win a tie
      std::uint8_t* const possible = possible_ + x * (MOST_POSSIBLE + 1);
      possible[0] = 0;
      for (int c = 0; c < channels_; c++) {
        if (!(highest[c] < (c < surest ? first_limit : limit))) possible[++possible[0]] = static_cast<std::uint8_t>(c);
      }
    }
  }

  // Sums of bytes times two such shares are exact in float32, in any order.
  static bool in_256ths(const Place& place) { return place.share * 256 == std::trunc(place.share * 256); }

  const Step& step_;
  const int channels_;
  float *upper_, *lower_, *share_;
  std::int32_t *left_, *right_, *ends_, *labels_;
  bool together_;  // `upper_` is the sum of both rows
  bool prunes_;    // only classes that may be the best are computed
  std::uint8_t* possible_;
  const Value* image_ = nullptr;  // whose rows from `row_` on the possible classes are for
  int row_ = -1;
};

// Calls row(band, row of all images) for every output row, bands in parallel.
template <Arithmetic A, class T, class F>
void for_rows(const Run<T>& run, const Step& step, const F& row) {
  const typename Band<T, A>::Value* in;
  if constexpr (A == Arithmetic::FLOATS) {
    in = run.floats(step.inputs[0]);
  } else {
    in = run.tensor(step.inputs[0]);
  }
  const std::ptrdiff_t image_size = static_cast<std::ptrdiff_t>(step.in_size());
  const int rows = run.images.count * step.out_height;
  const int bands = std::min(rows, 2 * run.hands(step));
  run.share(step, bands, [&](int task, int slot) {
    const auto edge = [&](int i) { return static_cast<int>(static_cast<long long>(rows) * i / bands); };
    Band<T, A> band(run, step, slot);
    for (int y = edge(task); y < edge(task + 1); y++) {
      band.enter(in + y / step.out_height * image_size, y % step.out_height);
      row(band, static_cast<std::ptrdiff_t>(y) * step.out_width);
    }
  });
}

template <Arithmetic A, class T>
void resize(const Run<T>& run, const Step& step) {
  constexpr bool CODES = is_of_codes(A);
  const bool stores = A != Arithmetic::FLOATS && step.output > ANSWER;
  T* const stored = stores ? run.tensor(step.output) : nullptr;
  float* const floats = stores ? nullptr : run.floats(step.output);
  const int channels = step.out_channels;
  const float zero = CODES ? static_cast<float>(step.rounding.input_zero) : 0.0f;
  const float scale = CODES ? step.rounding.float_scale : 1.0f;
  const bool one_place = step.in_pixels() == 1;
  for_rows<A>(run, step, [&](const Band<T, A>& band, std::ptrdiff_t pixel) {
    const std::ptrdiff_t first = pixel * channels;
    std::ptrdiff_t out = first;
    for (int i = 0; i < step.out_width; i++, out += channels) {
      if (one_place && i > 0) {
        if (stores) {
          std::memcpy(stored + out, stored + first, static_cast<std::size_t>(channels) * sizeof(T));
        } else {
          std::memcpy(floats + out, floats + first, static_cast<std::size_t>(channels) * sizeof(float));
        }
      } else if (stores) {
        for (int c = 0; c < channels; c++) stored[out + c] = from_float<T>(band.value(i, c));
      } else if (CODES) {
        for (int c = 0; c < channels; c++) floats[out + c] = (band.value(i, c) - zero) * scale;
      } else {
        for (int c = 0; c < channels; c++) floats[out + c] = band.value(i, c);
      }
    }
  });
}

template <Arithmetic A, class T>
void best_classes(const Run<T>& run, const Step& step) {
  unsigned char* const out = static_cast<unsigned char*>(run.answers[ANSWER - step.output]);
  for_rows<A>(run, step, [&](Band<T, A>& band, std::ptrdiff_t pixel) {
    const std::int32_t* const labels = band.labels(run.network.kernels());
    for (int i = 0; i < step.out_width; i++) {
      if (step.label_bytes == 1) {
        out[pixel + i] = static_cast<std::uint8_t>(labels[i]);
      } else {
        const auto label = static_cast<std::uint16_t>(labels[i]);
        std::memcpy(out + 2 * (pixel + i), &label, 2);
      }
    }
  });
}

template <Arithmetic A, class T>
void run_in(const Run<T>& run, const Step& step) {
  if (step.kind == StepKind::LABELS) {
    best_classes<A>(run, step);
  } else {
    resize<A>(run, step);
  }
}

}  // namespace

template <class T>
std::size_t resize_scratch_size(const Step& step) {
  return up_to_line<T>(Band<T, Arithmetic::FLOATS>::floats(step) * sizeof(float) / sizeof(T));
}

template <class T>
void run_resize(const Run<T>& run, const Step& step) {
  if constexpr (sizeof(T) != sizeof(float)) {
    if (!step.reads_floats) {
      if constexpr (sizeof(T) == 1) {
        if (step.signed_codes) return run_in<Arithmetic::SIGNED_CODES>(run, step);
        return run_in<Arithmetic::UNSIGNED_CODES>(run, step);
      } else {
        return run_in<Arithmetic::BFLOATS>(run, step);
      }
    }
  }
  run_in<Arithmetic::FLOATS>(run, step);
}

#define MNV2_INSTANTIATE(T)                                 \
  template std::size_t resize_scratch_size<T>(const Step&); \
  template void run_resize<T>(const Run<T>&, const Step&);
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
