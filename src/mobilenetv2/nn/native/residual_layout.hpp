// How the inverted residual divides its work and lays out its weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "passes.hpp"
#include "residual.hpp"

namespace mobilenetv2::block {

constexpr int MIN_UNIT_PIXELS = 256;  // images are joined into units of this many pixels or more
constexpr int SLICES = 16;            // partial sums over a batch, for any number of threads

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

inline int round_up(int value, int step) { return (value + step - 1) / step * step; }

// How a batch is divided: units of several images, slices of several units, groups of expanded channels.
struct Partition {
  int images, per_unit, units, slices;
  int in_pixels, out_pixels;  // of one image
  int group, groups;          // expanded channels per group; number of groups
  int thin, wide, narrow;     // numbers of channels of input, expansion and output, rounded up

  Partition(const ResidualShape& shape, int lanes, int group_size)
      : images(shape.images),
        in_pixels(shape.height * shape.width),
        out_pixels(shape.out_height * shape.out_width),
        group(group_size),
        thin(round_up(shape.channels, lanes)),
        wide(round_up(shape.expanded, group_size)),
        narrow(round_up(shape.out_channels, lanes)) {
    per_unit = std::clamp(MIN_UNIT_PIXELS / in_pixels, 1, images);
    units = (images + per_unit - 1) / per_unit;
    slices = std::min(units, SLICES);
    groups = wide / group;
  }
  int first(int unit) const { return unit * per_unit; }
  int size(int unit) const { return std::min(per_unit, images - first(unit)); }
  std::ptrdiff_t in_pixel(int unit) const { return static_cast<std::ptrdiff_t>(first(unit)) * in_pixels; }
  std::ptrdiff_t out_pixel(int unit) const { return static_cast<std::ptrdiff_t>(first(unit)) * out_pixels; }
  // Where a group of a unit begins in ResidualKept::depthwise.
  std::ptrdiff_t kept(int unit, int index) const {
    return out_pixel(unit) * wide + static_cast<std::ptrdiff_t>(index) * size(unit) * out_pixels * group;
  }
};

// Sums over the batch in parts, one per slice.
class PartialSums {
 public:
  PartialSums(int slices, std::size_t size) : size_(size), values_(slices * size, 0.0f) {}
  float* of(int slice) { return values_.data() + slice * size_; }
  Doubles total() const {
    Doubles sum(size_, 0.0);
    for (auto part = values_.begin(); part != values_.end(); part += size_) {
      for (std::size_t at = 0; at < size_; at++) sum[at] += part[at];
    }
    return sum;
  }

 private:
  std::size_t size_;
  Floats values_;
};

inline void add_to(float* total, const float* more, int count) {
  for (int i = 0; i < count; i++) total[i] += more[i];
}

// The factors of a batch norm, y = (x - mean) * scale + bias; channels are rounded up with zeros.
struct NormFactors {
  Floats scale, bias, deviation;  // deviation: 1 / sqrt(variance + epsilon)

  NormFactors(const BatchNorm& norm, const float* variance, int channels, int rounded)
      : scale(rounded, 0.0f), bias(rounded, 0.0f), deviation(rounded, 0.0f) {
    for (int c = 0; c < channels; c++) {
      deviation[c] = static_cast<float>(1 / std::sqrt(static_cast<double>(variance[c]) + norm.epsilon));
      scale[c] = norm.weight[c] * deviation[c];
      bias[c] = norm.bias[c];
    }
  }
  // Makes the bias that of y = x * scale + bias.
  void include_mean(const float* mean, int channels) {
    for (int c = 0; c < channels; c++) bias[c] -= mean[c] * scale[c];
  }
};

// rows x columns -> groups of `group` columns, each contiguous, columns rounded up with zeros.
inline Floats in_groups(const Floats& matrix, int rows, int columns, int group) {
  Floats packed(static_cast<std::size_t>(rows) * columns);
  for (int r = 0; r < rows; r++) {
    for (int c = 0; c < columns; c++) {
      packed[(static_cast<std::size_t>(c / group) * rows + r) * group + c % group] = matrix[r * columns + c];
    }
  }
  return packed;
}

// A matrix of floats as a factor of products; its number of rows is a multiple of PER_FACTOR.
template <class T>
std::vector<Factor<T>> pair_factors(const Passes<T>& passes, const Floats& matrix, int columns) {
  const int rows = static_cast<int>(matrix.size() / columns);
  std::vector<T> values(matrix.size());
  passes.convert(matrix.data(), columns, rows, columns, values.data());
  std::vector<Factor<T>> factors(matrix.size() / PER_FACTOR<T>);
  passes.pair_rows(values.data(), rows, columns, factors.data());
  return factors;
}

// The weights in the layouts that the products read.
template <class T>
struct PackedWeights {
  using Factors = std::vector<Factor<T>>;
  Factors expand;        // for each group: channels x group, scaled by the batch norm
  Factors back;          // wide x thin: the same, transposed
  Floats taps;           // for each group: 9 x group
  Factors project;       // wide x narrow
  Factors project_back;  // for each group: out_channels x group

  PackedWeights(const ResidualShape& shape, const Partition& partition, const ResidualWeights& weights,
                const NormFactors& normal, const Passes<T>& passes) {
    Floats rows(static_cast<std::size_t>(shape.channels) * partition.wide, 0.0f);
    Floats columns(static_cast<std::size_t>(partition.wide) * partition.thin, 0.0f);
    Floats nine(static_cast<std::size_t>(9) * partition.wide, 0.0f);
    Floats out_columns(static_cast<std::size_t>(partition.wide) * partition.narrow, 0.0f);
    Floats out_rows(static_cast<std::size_t>(shape.out_channels) * partition.wide, 0.0f);
    for (int c = 0; c < shape.expanded; c++) {
      for (int k = 0; k < shape.channels; k++) {
        const float value = weights.expand[c * shape.channels + k] * normal.scale[c];
        rows[k * partition.wide + c] = value;
        columns[c * partition.thin + k] = value;
      }
      for (int i = 0; i < 9; i++) nine[i * partition.wide + c] = weights.taps[c * 9 + i];
      for (int o = 0; o < shape.out_channels; o++) {
        const float value = weights.project[o * shape.expanded + c];
        out_columns[c * partition.narrow + o] = value;
        out_rows[o * partition.wide + c] = value;
      }
    }
    expand = pair_factors(passes, in_groups(rows, shape.channels, partition.wide, partition.group), partition.group);
    back = pair_factors(passes, columns, partition.thin);
    taps = in_groups(nine, 9, partition.wide, partition.group);
    project = pair_factors(passes, out_columns, partition.narrow);
    project_back =
        pair_factors(passes, in_groups(out_rows, shape.out_channels, partition.wide, partition.group), partition.group);
  }
};

// The maps of the depthwise convolution of one image.
inline Maps<float> maps_of(const ResidualShape& shape, const float* in, int channels) {
  return {in,       shape.height, shape.width, shape.out_height, shape.out_width,
          channels, shape.stride, shape.top,   shape.left};
}

// The weights of the expansion times the second moments of its input, expanded x thin.
inline Floats times_moments(const ResidualShape& shape, const Partition& partition, const Passes<float>& passes,
                            const float* expand, const float* moments) {
  Floats rows(static_cast<std::size_t>(shape.channels) * partition.thin, 0.0f);
  for (int k = 0; k < shape.channels; k++) {
    std::copy_n(moments + (1 + k) * shape.channels, shape.channels, rows.data() + k * partition.thin);
  }
  Floats product(static_cast<std::size_t>(shape.expanded) * partition.thin);
  passes.product({expand, shape.channels, 1, rows.data(), partition.thin, product.data(), partition.thin,
                  shape.expanded, partition.thin, shape.channels, nullptr, false, false});
  return product;
}

}  // namespace mobilenetv2::block
