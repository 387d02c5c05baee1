#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace mobilenetv2 {
namespace {

constexpr int FRACTION_BITS = 32 - 8 - 2;  // of a factor, so that sums are within 32 bits
constexpr std::int32_t HALF = 1 << (FRACTION_BITS - 1);
constexpr double PI = 3.14159265358979323846;
constexpr int STORED_SAMPLES = 4, SAMPLES = 3;  // of a pixel

double bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * PI) / (x * PI); }

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

// What each output along one axis is made of: `count` inputs from `first` on, times factors.
struct Taps {
  int most;  // of an output
  std::vector<int> first, count;
  std::vector<std::int32_t> factors;  // `most` of each output
};

// Outputs `begin` to `begin + wanted` - 1 of `out`. In doubles, in the order of Pillow's precompute_coeffs.
Taps taps_of(int in, int out, int begin, int wanted, Filter filter) {
  double (*const weight)(double) = filter == Filter::BILINEAR  ? bilinear
                                   : filter == Filter::BICUBIC ? bicubic
                                                               : lanczos;
  const double reach = filter == Filter::BILINEAR ? 1.0 : filter == Filter::BICUBIC ? 2.0 : 3.0;
  const double scale = static_cast<double>(in) / out, shrinking = std::max(scale, 1.0);
  const double support = reach * shrinking, step = 1.0 / shrinking;
  Taps taps;
  taps.most = static_cast<int>(std::ceil(support)) * 2 + 1;
  taps.factors.resize(static_cast<std::size_t>(taps.most) * static_cast<std::size_t>(wanted));
  std::vector<double> weights(static_cast<std::size_t>(taps.most));
  for (int i = 0; i < wanted; i++) {
    const double center = (begin + i + 0.5) * scale;
    const int low = std::max(static_cast<int>(center - support + 0.5), 0);
    const int count = std::min(static_cast<int>(center + support + 0.5), in) - low;
    double sum = 0.0;
    for (int x = 0; x < count; x++)
      sum += weights[static_cast<std::size_t>(x)] = weight((x + low - center + 0.5) * step);
    std::int32_t* const factors = taps.factors.data() + static_cast<std::ptrdiff_t>(i) * taps.most;
    for (int x = 0; x < count; x++) {
      const double share = weights[static_cast<std::size_t>(x)] / (sum != 0.0 ? sum : 1.0);
      factors[x] = static_cast<std::int32_t>((share < 0 ? -0.5 : 0.5) + share * (1 << FRACTION_BITS));
    }
    taps.first.push_back(low);
    taps.count.push_back(count);
  }
  return taps;
}

std::uint8_t sample(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> FRACTION_BITS, 0, 255)); }

// One row of pixels of four samples to as many of three as there are taps for. Written out for one pixel: with so few
// taps, vectors of samples are no faster.
void across(const std::uint8_t* in, const Taps& taps, std::uint8_t* out) {
  const std::int32_t* factors = taps.factors.data();
  const int *const first = taps.first.data(), *const count = taps.count.data();
  const int most = taps.most, width = static_cast<int>(taps.first.size());
  for (int x = 0; x < width; x++, out += SAMPLES, factors += most) {
    const std::uint8_t* from = in + static_cast<std::ptrdiff_t>(first[x]) * STORED_SAMPLES;
    std::int32_t red = HALF, green = HALF, blue = HALF;
    for (int i = 0; i < count[x]; i++, from += STORED_SAMPLES) {
      const std::int32_t factor = factors[i];
      red += from[0] * factor;
      green += from[1] * factor;
      blue += from[2] * factor;
    }
    out[0] = sample(red);
    out[1] = sample(green);
    out[2] = sample(blue);
  }
}

// The sum of `count` rows of `samples` samples, times their factors.
void down(const std::uint8_t* in, const std::int32_t* factors, int count, int samples, std::int32_t* sums,
          std::uint8_t* out) {
  for (int x = 0; x < samples; x++) sums[x] = HALF;
  for (int i = 0; i < count; i++, in += samples) {
    const std::int32_t factor = factors[i];
    for (int x = 0; x < samples; x++) sums[x] += in[x] * factor;
  }
  for (int x = 0; x < samples; x++) out[x] = sample(sums[x]);
}

}  // namespace

void resample(const std::uint8_t* in, int in_rows, int in_columns, int rows, int columns, const Part& part,
              Filter filter, std::uint8_t* out) {
  const Taps columns_taps = taps_of(in_columns, columns, part.left, part.width, filter);
  const Taps rows_taps = taps_of(in_rows, rows, part.top, part.height, filter);
  int first = in_rows, end = 0;
  for (std::size_t y = 0; y < rows_taps.first.size(); y++) {
    first = std::min(first, rows_taps.first[y]);
    end = std::max(end, rows_taps.first[y] + rows_taps.count[y]);
  }
  const int samples = part.width * SAMPLES;
  std::vector<std::uint8_t> narrow(static_cast<std::size_t>(end - first) * static_cast<std::size_t>(samples));
  for (int y = first; y < end; y++) {
    across(in + static_cast<std::ptrdiff_t>(y) * in_columns * STORED_SAMPLES, columns_taps,
           narrow.data() + static_cast<std::ptrdiff_t>(y - first) * samples);
  }
  std::vector<std::int32_t> sums(static_cast<std::size_t>(samples));
  for (int y = 0; y < part.height; y++, out += samples) {
    const std::size_t row = static_cast<std::size_t>(y);
    down(narrow.data() + static_cast<std::ptrdiff_t>(rows_taps.first[row] - first) * samples,
         rows_taps.factors.data() + static_cast<std::ptrdiff_t>(y) * rows_taps.most, rows_taps.count[row], samples,
         sums.data(), out);
  }
}

}  // namespace mobilenetv2
