#include "residual.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "training.hpp"

namespace mobilenetv2 {
namespace {

constexpr int UNIT = 256;   // pixels, at least, that are worked on at a time, if there are so many
constexpr int SLICES = 16;  // sums over a batch are made in so many parts, whatever the number of threads

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

int round_up(int value, int step) { return (value + step - 1) / step * step; }

// How a batch is cut: units of some pictures, slices of some units, groups of expanded channels.
struct Cut {
  int pictures, per_unit, units, slices;
  int in_pixels, out_pixels;              // of a picture
  int group, groups, thin, wide, narrow;  // thin, wide, narrow: channels in, expanded and out, rounded up

  Cut(const ResidualShape& shape, int lanes, int group_size)
      : pictures(shape.pictures),
        in_pixels(shape.height * shape.width),
        out_pixels(shape.out_height * shape.out_width),
        group(group_size),
        thin(round_up(shape.channels, lanes)),
        wide(round_up(shape.expanded, group_size)),
        narrow(round_up(shape.out_channels, lanes)) {
    per_unit = std::clamp(UNIT / in_pixels, 1, pictures);
    units = (pictures + per_unit - 1) / per_unit;
    slices = std::min(units, SLICES);
    groups = wide / group;
  }
  int first(int unit) const { return unit * per_unit; }
  int size(int unit) const { return std::min(per_unit, pictures - first(unit)); }
  std::ptrdiff_t in_pixel(int unit) const { return static_cast<std::ptrdiff_t>(first(unit)) * in_pixels; }
  std::ptrdiff_t out_pixel(int unit) const { return static_cast<std::ptrdiff_t>(first(unit)) * out_pixels; }
  // Where a unit's kept group begins.
  std::ptrdiff_t kept(int unit, int at) const {
    return out_pixel(unit) * wide + static_cast<std::ptrdiff_t>(at) * size(unit) * out_pixels * group;
  }
};

// One part a slice of sums over the batch.
class Parts {
 public:
  Parts(int slices, std::size_t size) : size_(size), values_(slices * size, 0.0f) {}
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

void add_to(float* total, const float* more, int count) {
  for (int i = 0; i < count; i++) total[i] += more[i];
}

// y = (x - mean) * scale + bias, channels rounded up with zeros.
struct Normal {
  Floats scale, bias, deviation;  // deviation: 1 / sqrt(variance + epsilon)

  Normal(const BatchNorm& norm, const float* variance, int channels, int rounded)
      : scale(rounded, 0.0f), bias(rounded, 0.0f), deviation(rounded, 0.0f) {
    for (int c = 0; c < channels; c++) {
      deviation[c] = static_cast<float>(1 / std::sqrt(static_cast<double>(variance[c]) + norm.epsilon));
      scale[c] = norm.weight[c] * deviation[c];
      bias[c] = norm.bias[c];
    }
  }
  // The bias of y = x * scale + bias.
  void move(const float* mean, int channels) {
    for (int c = 0; c < channels; c++) bias[c] -= mean[c] * scale[c];
  }
};

// rows x columns -> groups of `group` columns, each contiguous, columns rounded up with zeros.
Floats in_groups(const Floats& matrix, int rows, int columns, int group) {
  Floats packed(static_cast<std::size_t>(rows) * columns);
  for (int r = 0; r < rows; r++) {
    for (int c = 0; c < columns; c++) {
      packed[(static_cast<std::size_t>(c / group) * rows + r) * group + c % group] = matrix[r * columns + c];
    }
  }
  return packed;
}

// The weights as the products want them.
struct Packed {
  Floats expand;        // for each group: channels x group, scaled by the batch norm
  Floats back;          // wide x thin: the same, turned
  Floats taps;          // for each group: 9 x group
  Floats project;       // wide x narrow
  Floats project_back;  // for each group: out_channels x group

  Packed(const ResidualShape& shape, const Cut& cut, const ResidualWeights& weights, const Normal& normal) {
    Floats rows(static_cast<std::size_t>(shape.channels) * cut.wide, 0.0f);
    back.assign(static_cast<std::size_t>(cut.wide) * cut.thin, 0.0f);
    Floats nine(static_cast<std::size_t>(9) * cut.wide, 0.0f);
    project.assign(static_cast<std::size_t>(cut.wide) * cut.narrow, 0.0f);
    Floats turned(static_cast<std::size_t>(shape.out_channels) * cut.wide, 0.0f);
    for (int c = 0; c < shape.expanded; c++) {
      for (int k = 0; k < shape.channels; k++) {
        const float value = weights.expand[c * shape.channels + k] * normal.scale[c];
        rows[k * cut.wide + c] = value;
        back[c * cut.thin + k] = value;
      }
      for (int i = 0; i < 9; i++) nine[i * cut.wide + c] = weights.taps[c * 9 + i];
      for (int o = 0; o < shape.out_channels; o++) {
        const float value = weights.project[o * shape.expanded + c];
        project[c * cut.narrow + o] = value;
        turned[o * cut.wide + c] = value;
      }
    }
    expand = in_groups(rows, shape.channels, cut.wide, cut.group);
    taps = in_groups(nine, 9, cut.wide, cut.group);
    project_back = in_groups(turned, shape.out_channels, cut.wide, cut.group);
  }
};

Maps<float> maps_of(const ResidualShape& shape, const float* in, int channels) {
  return {in,       shape.height, shape.width, shape.out_height, shape.out_width,
          channels, shape.stride, shape.top,   shape.left};
}

// W times the sums of products, expanded x thin.
Floats times_moments(const ResidualShape& shape, const Cut& cut, const Passes<float>& passes, const float* expand,
                     const float* moments) {
  Floats rows(static_cast<std::size_t>(shape.channels) * cut.thin, 0.0f);
  for (int k = 0; k < shape.channels; k++) {
    std::copy_n(moments + (1 + k) * shape.channels, shape.channels, rows.data() + k * cut.thin);
  }
  Floats found(static_cast<std::size_t>(shape.expanded) * cut.thin);
  passes.product({expand, shape.channels, 1, rows.data(), cut.thin, found.data(), cut.thin, shape.expanded, cut.thin,
                  shape.channels, nullptr, false, false});
  return found;
}

}  // namespace

// A slice's share of the units.
template <class Body>
void Training::by_slices(int slices, int units, Body&& body) {
  pool_.parallel(slices, [&](int slice, int slot) {
    for (int unit = slice * units / slices; unit < (slice + 1) * units / slices; unit++) body(slice, unit, slot);
  });
}

float* Training::scratch(int slot, std::size_t size) {
  Floats& found = scratch_[slot];
  if (found.size() < size) found.resize(size);
  return found.data();
}

template <class T>
void Training::residual(const ResidualShape& shape, const ResidualWeights& weights, const T* in,
                        const ResidualKept<T>& kept, T* out) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  const Passes<T>& at = passes<T>();
  const Passes<float>& work = passes<float>();
  const Cut cut(shape, at.lanes, at.group);
  const int channels = shape.channels, expanded = shape.expanded;
  const double in_count = static_cast<double>(cut.pictures) * cut.in_pixels;
  const std::size_t thin_size = static_cast<std::size_t>(cut.per_unit) * cut.in_pixels * cut.thin;
  const std::size_t group_size = static_cast<std::size_t>(cut.per_unit) * cut.in_pixels * cut.group;
  const std::size_t kept_size = static_cast<std::size_t>(cut.per_unit) * cut.out_pixels * cut.group;
  const std::size_t narrow_size = static_cast<std::size_t>(cut.per_unit) * cut.out_pixels * cut.narrow;

  // The input's mean and moments.
  const Floats zeros(std::max(channels, shape.out_channels), 0.0f);
  Parts sums(cut.slices, channels);
  by_slices(cut.slices, cut.units, [&](int slice, int unit, int slot) {
    float* const sum = scratch(slot, 2 * channels);
    at.sums(in + cut.in_pixel(unit) * channels, cut.size(unit) * cut.in_pixels, channels, zeros.data(), sum,
            sum + channels);
    add_to(sums.of(slice), sum, channels);
  });
  const Doubles sum = sums.total();
  for (int k = 0; k < channels; k++) kept.moments[k] = static_cast<float>(sum[k] / in_count);
  Parts products(cut.slices, static_cast<std::size_t>(channels) * cut.thin);
  by_slices(cut.slices, cut.units, [&](int slice, int unit, int slot) {
    float* const u = scratch(slot, thin_size);
    const int pixels = cut.size(unit) * cut.in_pixels;
    at.centred(in + cut.in_pixel(unit) * channels, pixels, channels, kept.moments, u, cut.thin);
    work.product(
        {u, 1, cut.thin, u, cut.thin, products.of(slice), cut.thin, channels, cut.thin, pixels, nullptr, true, false});
  });
  const Doubles product = products.total();
  for (int k = 0; k < channels; k++) {
    for (int j = 0; j < channels; j++) {
      kept.moments[(1 + k) * channels + j] = static_cast<float>(product[static_cast<std::size_t>(k) * cut.thin + j]);
    }
  }
  float* const mean = kept.statistics;
  float* const variance = mean + expanded;
  const Floats spread = times_moments(shape, cut, work, weights.expand, kept.moments);
  for (int c = 0; c < expanded; c++) {
    double middle = 0, square = 0;
    for (int k = 0; k < channels; k++) {
      const double weight = weights.expand[c * channels + k];
      middle += weight * kept.moments[k];
      square += weight * spread[static_cast<std::size_t>(c) * cut.thin + k];
    }
    mean[c] = static_cast<float>(middle);
    variance[c] = static_cast<float>(std::max(0.0, square / in_count));
  }

  // Expand and filter; the sums of what comes out.
  const Normal first(weights.expand_norm, variance, expanded, cut.wide);
  const Packed packed(shape, cut, weights, first);
  Floats pivots(static_cast<std::size_t>(cut.units) * 3 * cut.wide);  // pivot, sum, squares
  pool_.parallel(cut.units, [&](int unit, int slot) {
    float* const u = scratch(slot, thin_size + group_size + kept_size);
    float* const wide = u + thin_size;
    float* const filtered = wide + group_size;
    const int pixels = cut.size(unit) * cut.in_pixels, out_pixels = cut.size(unit) * cut.out_pixels;
    at.centred(in + cut.in_pixel(unit) * channels, pixels, channels, kept.moments, u, cut.thin);
    for (int g = 0; g < cut.groups; g++) {
      work.product({u, cut.thin, 1, packed.expand.data() + static_cast<std::size_t>(g) * channels * cut.group,
                    cut.group, wide, cut.group, pixels, cut.group, channels, first.bias.data() + g * cut.group, false,
                    true});
      for (int i = 0; i < cut.size(unit); i++) {
        work.depthwise(maps_of(shape, wide + static_cast<std::ptrdiff_t>(i) * cut.in_pixels * cut.group, cut.group),
                       packed.taps.data() + static_cast<std::size_t>(g) * 9 * cut.group,
                       filtered + static_cast<std::ptrdiff_t>(i) * cut.out_pixels * cut.group);
      }
      float* const pivot = pivots.data() + static_cast<std::size_t>(unit) * 3 * cut.wide + g * cut.group;
      std::copy_n(filtered, cut.group, pivot);
      work.sums(filtered, out_pixels, cut.group, pivot, pivot + cut.wide, pivot + 2 * cut.wide);
      at.stored(filtered, cut.group, out_pixels, cut.group, kept.depthwise + cut.kept(unit, g));
    }
  });
  float* const out_mean = kept.statistics + 2 * expanded;
  float* const out_variance = out_mean + expanded;
  for (int c = 0; c < expanded; c++) {
    double count = 0, middle = 0, squares = 0;  // Chan, Golub and LeVeque 1979
    for (int unit = 0; unit < cut.units; unit++) {
      const float* const found = pivots.data() + static_cast<std::size_t>(unit) * 3 * cut.wide + c;
      const double n = static_cast<double>(cut.size(unit)) * cut.out_pixels;
      const double away = found[cut.wide] / n, apart = found[0] + away - middle;
      squares += found[2 * cut.wide] - away * away * n + apart * apart * count * n / (count + n);
      middle += apart * n / (count + n);
      count += n;
    }
    out_mean[c] = static_cast<float>(middle);
    out_variance[c] = static_cast<float>(std::max(0.0, squares / count));
  }

  // Project.
  Normal second(weights.depthwise_norm, out_variance, expanded, cut.wide);
  second.move(out_mean, expanded);
  pool_.parallel(cut.units, [&](int unit, int slot) {
    float* const limited = scratch(slot, kept_size + narrow_size);
    float* const projected = limited + kept_size;
    const int pixels = cut.size(unit) * cut.out_pixels;
    for (int g = 0; g < cut.groups; g++) {
      const Norm norm = {second.scale.data() + g * cut.group, second.bias.data() + g * cut.group, true};
      at.normalise_kept(kept.depthwise + cut.kept(unit, g), pixels, cut.group, norm, limited);
      work.product({limited, cut.group, 1, packed.project.data() + static_cast<std::size_t>(g) * cut.group * cut.narrow,
                    cut.narrow, projected, cut.narrow, pixels, cut.narrow, cut.group, nullptr, g > 0, false});
    }
    at.stored(projected, cut.narrow, pixels, shape.out_channels, out + cut.out_pixel(unit) * shape.out_channels);
  });
}

template <class T>
void Training::residual_gradient(const ResidualShape& shape, const ResidualWeights& weights, const T* in,
                                 const ResidualKept<T>& kept, const T* gradient, T* out,
                                 const ResidualGradients& gradients) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  const Passes<T>& at = passes<T>();
  const Passes<float>& work = passes<float>();
  const Cut cut(shape, at.lanes, at.group);
  const int channels = shape.channels, expanded = shape.expanded, out_channels = shape.out_channels;
  const double in_count = static_cast<double>(cut.pictures) * cut.in_pixels;
  const double out_count = static_cast<double>(cut.pictures) * cut.out_pixels;
  const std::size_t thin_size = static_cast<std::size_t>(cut.per_unit) * cut.in_pixels * cut.thin;
  const std::size_t group_size = static_cast<std::size_t>(cut.per_unit) * cut.in_pixels * cut.group;
  const std::size_t kept_size = static_cast<std::size_t>(cut.per_unit) * cut.out_pixels * cut.group;
  const std::size_t narrow_size = static_cast<std::size_t>(cut.per_unit) * cut.out_pixels * cut.narrow;
  const float* const out_mean = kept.statistics + 2 * expanded;
  const Normal first(weights.expand_norm, kept.statistics + expanded, expanded, cut.wide);
  Normal second(weights.depthwise_norm, kept.statistics + 3 * expanded, expanded, cut.wide);
  second.move(out_mean, expanded);
  const Packed packed(shape, cut, weights, first);
  Floats pivot(cut.wide, 0.0f);
  std::copy_n(out_mean, expanded, pivot.data());
  const Floats zeros(std::max(channels, out_channels), 0.0f);

  // The gradient before the projection, through the second ReLU6: made here for its sums, and again below.
  const auto unprojected = [&](const float* projected, int g, int pixels, float* to) {
    work.product({projected, cut.narrow, 1,
                  packed.project_back.data() + static_cast<std::size_t>(g) * out_channels * cut.group, cut.group, to,
                  cut.group, pixels, cut.group, out_channels, nullptr, false, false});
  };
  Parts sums(cut.slices, 2 * cut.wide), for_project(cut.slices, static_cast<std::size_t>(out_channels) * cut.wide);
  by_slices(cut.slices, cut.units, [&](int slice, int unit, int slot) {
    float* const projected = scratch(slot, narrow_size + 2 * kept_size + 2 * cut.group);
    float* const slope = projected + narrow_size;
    float* const limited = slope + kept_size;
    float* const sum = limited + kept_size;
    const int pixels = cut.size(unit) * cut.out_pixels;
    at.centred(gradient + cut.out_pixel(unit) * out_channels, pixels, out_channels, zeros.data(), projected,
               cut.narrow);
    for (int g = 0; g < cut.groups; g++) {
      const int c = g * cut.group;
      const Norm norm = {second.scale.data() + c, second.bias.data() + c, true};
      const T* const filtered = kept.depthwise + cut.kept(unit, g);
      unprojected(projected, g, pixels, slope);
      at.gradient_sums_kept(slope, filtered, pixels, cut.group, norm, pivot.data() + c, sum, sum + cut.group);
      add_to(sums.of(slice) + c, sum, cut.group);
      add_to(sums.of(slice) + cut.wide + c, sum + cut.group, cut.group);
      at.normalise_kept(filtered, pixels, cut.group, norm, limited);
      work.product({projected, 1, cut.narrow, limited, cut.group, for_project.of(slice) + c, cut.wide, out_channels,
                    cut.group, pixels, nullptr, true, false});
    }
  });
  const Doubles project = for_project.total();
  for (int o = 0; o < out_channels; o++) {
    for (int c = 0; c < expanded; c++) {
      gradients.project[o * expanded + c] = static_cast<float>(project[static_cast<std::size_t>(o) * cut.wide + c]);
    }
  }
  const Doubles sum = sums.total();
  Floats a(cut.wide, 0.0f), b(cut.wide, 0.0f), constant(cut.wide, 0.0f);
  for (int c = 0; c < expanded; c++) {
    const double product = sum[cut.wide + c] * second.deviation[c];  // with the normalised input
    gradients.norms[2 * expanded + c] = static_cast<float>(product);
    gradients.norms[3 * expanded + c] = static_cast<float>(sum[c]);
    const double slope = -static_cast<double>(second.scale[c]) * second.deviation[c] * product / out_count;
    a[c] = second.scale[c];
    b[c] = static_cast<float>(slope);
    constant[c] = static_cast<float>(-second.scale[c] * sum[c] / out_count - slope * out_mean[c]);
  }

  // Back through the filter and the expansion, but for what the first batch norm adds.
  Parts for_taps(cut.slices, static_cast<std::size_t>(9) * cut.wide), for_bias(cut.slices, cut.wide),
      for_expand(cut.slices, static_cast<std::size_t>(channels) * cut.wide);
  Floats thin(static_cast<std::size_t>(cut.pictures) * cut.in_pixels * cut.thin);
  by_slices(cut.slices, cut.units, [&](int slice, int unit, int slot) {
    float* const projected = scratch(slot, narrow_size + thin_size + kept_size + 2 * group_size + 9 * cut.group);
    float* const u = projected + narrow_size;
    float* const slope = u + thin_size;
    float* const limited = slope + kept_size;
    float* const back = limited + group_size;
    float* const found = back + group_size;
    const int pixels = cut.size(unit) * cut.in_pixels, out_pixels = cut.size(unit) * cut.out_pixels;
    at.centred(gradient + cut.out_pixel(unit) * out_channels, out_pixels, out_channels, zeros.data(), projected,
               cut.narrow);
    at.centred(in + cut.in_pixel(unit) * channels, pixels, channels, kept.moments, u, cut.thin);
    for (int g = 0; g < cut.groups; g++) {
      const int c = g * cut.group;
      const Norm norm = {second.scale.data() + c, second.bias.data() + c, true};
      unprojected(projected, g, out_pixels, slope);
      at.gradient_kept(slope, kept.depthwise + cut.kept(unit, g), out_pixels, cut.group, norm, a.data() + c,
                       b.data() + c, constant.data() + c, slope);
      work.product({u, cut.thin, 1, packed.expand.data() + static_cast<std::size_t>(g) * channels * cut.group,
                    cut.group, limited, cut.group, pixels, cut.group, channels, first.bias.data() + c, false, true});
      for (int i = 0; i < cut.size(unit); i++) {
        const std::ptrdiff_t picture = static_cast<std::ptrdiff_t>(i) * cut.in_pixels * cut.group;
        work.depthwise_gradient(maps_of(shape, limited + picture, cut.group),
                                slope + static_cast<std::ptrdiff_t>(i) * cut.out_pixels * cut.group,
                                packed.taps.data() + static_cast<std::size_t>(g) * 9 * cut.group, back + picture,
                                found);
        add_to(for_taps.of(slice) + static_cast<std::size_t>(g) * 9 * cut.group, found, 9 * cut.group);
      }
      work.clip(limited, pixels, cut.group, back, found);
      add_to(for_bias.of(slice) + c, found, cut.group);
      work.product({u, 1, cut.thin, back, cut.group, for_expand.of(slice) + c, cut.wide, channels, cut.group, pixels,
                    nullptr, true, false});
      work.product({back, cut.group, 1, packed.back.data() + static_cast<std::size_t>(c) * cut.thin, cut.thin,
                    thin.data() + cut.in_pixel(unit) * cut.thin, cut.thin, pixels, cut.thin, cut.group, nullptr, g > 0,
                    false});
    }
  });
  const Doubles taps = for_taps.total(), bias = for_bias.total(), expand = for_expand.total();
  const Floats spread = times_moments(shape, cut, work, weights.expand, kept.moments);
  Floats by_input(static_cast<std::size_t>(expanded) * cut.thin, 0.0f), shift(cut.thin, 0.0f);
  for (int c = 0; c < expanded; c++) {
    const float* const row = weights.expand + c * channels;
    double product = 0;  // with the normalised expansion
    for (int k = 0; k < channels; k++) product += row[k] * expand[static_cast<std::size_t>(k) * cut.wide + c];
    product *= first.deviation[c];
    gradients.norms[c] = static_cast<float>(product);
    gradients.norms[expanded + c] = static_cast<float>(bias[c]);
    const double slope = -static_cast<double>(first.scale[c]) * first.deviation[c] * product / in_count;
    const double mean = -first.scale[c] * bias[c] / in_count;
    for (int k = 0; k < channels; k++) {
      gradients.expand[c * channels + k] =
          static_cast<float>(first.scale[c] * expand[static_cast<std::size_t>(k) * cut.wide + c] +
                             slope * spread[static_cast<std::size_t>(c) * cut.thin + k]);
      by_input[static_cast<std::size_t>(c) * cut.thin + k] = static_cast<float>(slope * row[k]);
      shift[k] += static_cast<float>(mean * row[k]);
    }
    for (int i = 0; i < 9; i++) {
      gradients.taps[c * 9 + i] =
          static_cast<float>(taps[(static_cast<std::size_t>(c / cut.group) * 9 + i) * cut.group + c % cut.group]);
    }
  }
  Floats square(static_cast<std::size_t>(channels) * cut.thin);
  work.product({weights.expand, 1, channels, by_input.data(), cut.thin, square.data(), cut.thin, channels, cut.thin,
                expanded, nullptr, false, false});
  pool_.parallel(cut.units, [&](int unit, int slot) {
    float* const u = scratch(slot, thin_size);
    const int pixels = cut.size(unit) * cut.in_pixels;
    at.centred(in + cut.in_pixel(unit) * channels, pixels, channels, kept.moments, u, cut.thin);
    float* const total = thin.data() + cut.in_pixel(unit) * cut.thin;
    work.product({u, cut.thin, 1, square.data(), cut.thin, total, cut.thin, pixels, cut.thin, channels, shift.data(),
                  true, false});
    at.stored(total, cut.thin, pixels, channels, out + cut.in_pixel(unit) * channels);
  });
}

#define MNV2_RESIDUAL(T)                                                                                              \
  template void Training::residual<T>(const ResidualShape&, const ResidualWeights&, const T*, const ResidualKept<T>&, \
                                      T*);                                                                            \
  template void Training::residual_gradient<T>(const ResidualShape&, const ResidualWeights&, const T*,                \
                                               const ResidualKept<T>&, const T*, T*, const ResidualGradients&);
MNV2_RESIDUAL(float)
MNV2_RESIDUAL(bfloat16)
#undef MNV2_RESIDUAL

}  // namespace mobilenetv2
