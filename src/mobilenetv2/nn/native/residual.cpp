#include "residual.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "training.hpp"

namespace mobilenetv2 {
namespace {

constexpr int UNIT = 256;   // pixels, at least, that are worked on at a time, if there are so many
constexpr int SLICES = 16;  // sums over a batch are made in so many parts, whatever the number of threads

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

int round_up(int value, int step) { return (value + step - 1) / step * step; }

// How a batch is cut: units of some images, slices of some units, groups of expanded channels.
struct Cut {
  int images, per_unit, units, slices;
  int in_pixels, out_pixels;              // of an image
  int group, groups, thin, wide, narrow;  // thin, wide, narrow: channels in, expanded and out, rounded up

  Cut(const ResidualShape& shape, int lanes, int group_size)
      : images(shape.images),
        in_pixels(shape.height * shape.width),
        out_pixels(shape.out_height * shape.out_width),
        group(group_size),
        thin(round_up(shape.channels, lanes)),
        wide(round_up(shape.expanded, group_size)),
        narrow(round_up(shape.out_channels, lanes)) {
    per_unit = std::clamp(UNIT / in_pixels, 1, images);
    units = (images + per_unit - 1) / per_unit;
    slices = std::min(units, SLICES);
    groups = wide / group;
  }
  int first(int unit) const { return unit * per_unit; }
  int size(int unit) const { return std::min(per_unit, images - first(unit)); }
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

// A factor of products: `rows` of values, `columns` of units; rows a multiple of PER_UNIT.
template <class T>
std::vector<Unit<T>> paired(const Passes<T>& passes, const Floats& matrix, int columns) {
  const int rows = static_cast<int>(matrix.size() / columns);
  std::vector<T> values(matrix.size());
  passes.stored(matrix.data(), columns, rows, columns, values.data());
  std::vector<Unit<T>> units(matrix.size() / PER_UNIT<T>);
  passes.paired(values.data(), rows, columns, units.data());
  return units;
}

// The weights as the products want them.
template <class T>
struct Packed {
  using Units = std::vector<Unit<T>>;
  Units expand;        // for each group: channels x group, scaled by the batch norm
  Units back;          // wide x thin: the same, turned
  Floats taps;         // for each group: 9 x group
  Units project;       // wide x narrow
  Units project_back;  // for each group: out_channels x group

  Packed(const ResidualShape& shape, const Cut& cut, const ResidualWeights& weights, const Normal& normal,
         const Passes<T>& passes) {
    Floats rows(static_cast<std::size_t>(shape.channels) * cut.wide, 0.0f);
    Floats columns(static_cast<std::size_t>(cut.wide) * cut.thin, 0.0f);
    Floats nine(static_cast<std::size_t>(9) * cut.wide, 0.0f);
    Floats out_columns(static_cast<std::size_t>(cut.wide) * cut.narrow, 0.0f);
    Floats out_rows(static_cast<std::size_t>(shape.out_channels) * cut.wide, 0.0f);
    for (int c = 0; c < shape.expanded; c++) {
      for (int k = 0; k < shape.channels; k++) {
        const float value = weights.expand[c * shape.channels + k] * normal.scale[c];
        rows[k * cut.wide + c] = value;
        columns[c * cut.thin + k] = value;
      }
      for (int i = 0; i < 9; i++) nine[i * cut.wide + c] = weights.taps[c * 9 + i];
      for (int o = 0; o < shape.out_channels; o++) {
        const float value = weights.project[o * shape.expanded + c];
        out_columns[c * cut.narrow + o] = value;
        out_rows[o * cut.wide + c] = value;
      }
    }
    expand = paired(passes, in_groups(rows, shape.channels, cut.wide, cut.group), cut.group);
    back = paired(passes, columns, cut.thin);
    taps = in_groups(nine, 9, cut.wide, cut.group);
    project = paired(passes, out_columns, cut.narrow);
    project_back = paired(passes, in_groups(out_rows, shape.out_channels, cut.wide, cut.group), cut.group);
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

// One call of residual() or residual_gradient(), pass by pass.
template <class T>
struct Training::ResidualCall {
  static constexpr bool FLOATS = std::is_same_v<T, float>;  // maps may be worked on where they are
  static constexpr int PER = PER_UNIT<T>;

  Training& training;
  const ResidualShape& shape;
  const ResidualWeights& weights;
  const T* const in;
  const ResidualKept<T>& kept;
  const Passes<T>& at;
  const Passes<float>& work;
  const Cut cut;
  const int channels, expanded, out_channels;
  const double in_count, out_count;                                 // pixels of the batch
  const std::size_t thin_size, group_size, kept_size, narrow_size;  // of a unit of the batch
  const Floats zeros;

  ResidualCall(Training& training_, const ResidualShape& shape_, const ResidualWeights& weights_, const T* in_,
               const ResidualKept<T>& kept_)
      : training(training_),
        shape(shape_),
        weights(weights_),
        in(in_),
        kept(kept_),
        at(training.passes<T>()),
        work(training.passes<float>()),
        cut(shape, at.lanes, at.group),
        channels(shape.channels),
        expanded(shape.expanded),
        out_channels(shape.out_channels),
        in_count(static_cast<double>(cut.images) * cut.in_pixels),
        out_count(static_cast<double>(cut.images) * cut.out_pixels),
        thin_size(static_cast<std::size_t>(cut.per_unit) * cut.in_pixels * cut.thin),
        group_size(static_cast<std::size_t>(cut.per_unit) * cut.in_pixels * cut.group),
        kept_size(static_cast<std::size_t>(cut.per_unit) * cut.out_pixels * cut.group),
        narrow_size(static_cast<std::size_t>(cut.per_unit) * cut.out_pixels * cut.narrow),
        zeros(channels, 0.0f) {}

  // The statistics: of the expansion, then of the depthwise convolution.
  float* mean() const { return kept.statistics; }
  float* variance() const { return kept.statistics + expanded; }
  float* out_mean() const { return kept.statistics + 2 * expanded; }
  float* out_variance() const { return kept.statistics + 3 * expanded; }

  Normal first_normal() const { return Normal(weights.expand_norm, variance(), expanded, cut.wide); }
  Normal second_normal() const {
    Normal normal(weights.depthwise_norm, out_variance(), expanded, cut.wide);
    normal.move(out_mean(), expanded);
    return normal;
  }

  template <class Body>
  void by_slices(Body&& body) {
    training.by_slices(cut.slices, cut.units, body);
  }

  // Memory of a thread until its next call: parts of `size` values each, T or float, whole vectors.
  struct Scratch {
    float* at;
    template <class V>
    V* take(std::size_t size) {
      V* const found = reinterpret_cast<V*>(at);
      at += size;  // for bfloat16 twice what it takes
      return found;
    }
  };
  Scratch scratch(int slot, std::size_t size) { return {training.scratch(slot, size)}; }

  // T beside T along a row is what products take units of.
  static const Unit<T>* units(const T* from) { return reinterpret_cast<const Unit<T>*>(from); }
  static int per_unit(int size) { return (size + PER - 1) / PER; }
  // Units along the pixels instead.
  const Unit<T>* paired(const T* from, int pixels, int channels_, float* buffer) const {
    if constexpr (FLOATS) {
      return from;
    } else {
      Unit<T>* const found = reinterpret_cast<Unit<T>*>(buffer);
      at.paired(from, pixels, channels_, found);
      return found;
    }
  }

  // A unit's input about its means, channels rounded up.
  void centre(int unit, T* u) const {
    at.centred(in + cut.in_pixel(unit) * channels, cut.size(unit) * cut.in_pixels, channels, kept.moments, u, cut.thin);
  }
  // Where to compute what belongs at `to`, `channels` of them rounded up to `row`; stored() brings it there.
  float* computed(T* to, int channels_, int row, float* buffer) const {
    if constexpr (FLOATS) {
      if (row == channels_) return to;
    }
    return buffer;
  }
  // Where values that were computed at `wide` belong as T.
  static T* place(float* wide, T* buffer) {
    if constexpr (FLOATS) {
      return wide;
    } else {
      return buffer;
    }
  }
  void stored(const float* from, int row, int pixels, int channels_, T* to) const {
    if (static_cast<const void*>(from) != to) at.stored(from, row, pixels, channels_, to);
  }
  // A group of the expanded map.
  void expand(const Packed<T>& packed, const Normal& first, const T* u, int g, int pixels, float* wide) const {
    at.product({units(u), cut.thin / PER, 1,
                packed.expand.data() + static_cast<std::size_t>(g) * channels / PER * cut.group, cut.group, wide,
                cut.group, pixels, cut.group, channels / PER, first.bias.data() + g * cut.group, false, true});
  }
  // A group of the gradient before the projection.
  void unproject(const Packed<T>& packed, const T* gradient, int g, int pixels, float* to) const {
    at.product({units(gradient), out_channels / PER, 1,
                packed.project_back.data() + static_cast<std::size_t>(g) * out_channels / PER * cut.group, cut.group,
                to, cut.group, pixels, cut.group, out_channels / PER, nullptr, false, false});
  }

  void moments();
  void expanded_statistics();
  void filter(const Packed<T>& packed, const Normal& first);
  void filtered_statistics(const Floats& pivots);
  void project(const Packed<T>& packed, const Normal& second, T* out);

  // What the second batch norm passes back: a * g + b * x + c.
  struct Back {
    Floats a, b, c;
  };
  Back project_gradient(const Packed<T>& packed, const Normal& second, const T* gradient, const ResidualGradients& to);
  struct Found {
    Doubles taps, bias, expand;
    // The gradient of the input, but for what the first batch norm adds; null: it is where it belongs.
    std::unique_ptr<float[]> thin;
  };
  Found filter_gradient(const Packed<T>& packed, const Normal& first, const Normal& second, const Back& back,
                        const T* gradient, T* out);
  float* thin(const std::unique_ptr<float[]>& buffer, int unit, T* out) const {
    float* const at_unit = buffer ? buffer.get() + cut.in_pixel(unit) * cut.thin : nullptr;
    return computed(out + cut.in_pixel(unit) * channels, channels, cut.thin, at_unit);
  }
  void input_gradient(const Normal& first, Found& found, T* out, const ResidualGradients& to);
};

// The input's mean and moments.
template <class T>
void Training::ResidualCall<T>::moments() {
  Parts sums(cut.slices, channels);
  by_slices([&](int slice, int unit, int slot) {
    float* const sum = training.scratch(slot, 2 * channels);
    at.sums(in + cut.in_pixel(unit) * channels, cut.size(unit) * cut.in_pixels, channels, zeros.data(), sum,
            sum + channels);
    add_to(sums.of(slice), sum, channels);
  });
  const Doubles sum = sums.total();
  for (int k = 0; k < channels; k++) kept.moments[k] = static_cast<float>(sum[k] / in_count);
  Parts products(cut.slices, static_cast<std::size_t>(channels) * cut.thin);
  by_slices([&](int slice, int unit, int slot) {
    Scratch memory = scratch(slot, 2 * thin_size + cut.thin);
    T* const u = memory.template take<T>(thin_size);
    const int pixels = cut.size(unit) * cut.in_pixels;
    centre(unit, u);
    const Unit<T>* const by_pixels = paired(u, pixels, cut.thin, memory.at);
    at.product({by_pixels, 1, cut.thin, by_pixels, cut.thin, products.of(slice), cut.thin, channels, cut.thin,
                per_unit(pixels), nullptr, true, false});
  });
  const Doubles product = products.total();
  for (int k = 0; k < channels; k++) {
    for (int j = 0; j < channels; j++) {
      kept.moments[(1 + k) * channels + j] = static_cast<float>(product[static_cast<std::size_t>(k) * cut.thin + j]);
    }
  }
}

// Mean and variance of the expansion, from the moments.
template <class T>
void Training::ResidualCall<T>::expanded_statistics() {
  const Floats spread = times_moments(shape, cut, work, weights.expand, kept.moments);
  for (int c = 0; c < expanded; c++) {
    double middle = 0, square = 0;
    for (int k = 0; k < channels; k++) {
      const double weight = weights.expand[c * channels + k];
      middle += weight * kept.moments[k];
      square += weight * spread[static_cast<std::size_t>(c) * cut.thin + k];
    }
    mean()[c] = static_cast<float>(middle);
    variance()[c] = static_cast<float>(std::max(0.0, square / in_count));
  }
}

// Expand and filter; the sums of what comes out.
template <class T>
void Training::ResidualCall<T>::filter(const Packed<T>& packed, const Normal& first) {
  Floats pivots(static_cast<std::size_t>(cut.units) * 3 * cut.wide);  // of each unit: pivot, sum, squares
  training.pool_.parallel(cut.units, [&](int unit, int slot) {
    Scratch memory = scratch(slot, thin_size + group_size + kept_size);
    T* const u = memory.template take<T>(thin_size);
    float* const wide = memory.template take<float>(group_size);
    const int out_pixels = cut.size(unit) * cut.out_pixels;
    centre(unit, u);
    for (int g = 0; g < cut.groups; g++) {
      T* const kept_group = kept.depthwise + cut.kept(unit, g);
      float* const filtered = computed(kept_group, cut.group, cut.group, memory.at);
      expand(packed, first, u, g, cut.size(unit) * cut.in_pixels, wide);
      for (int i = 0; i < cut.size(unit); i++) {
        work.depthwise(maps_of(shape, wide + static_cast<std::ptrdiff_t>(i) * cut.in_pixels * cut.group, cut.group),
                       packed.taps.data() + static_cast<std::size_t>(g) * 9 * cut.group,
                       filtered + static_cast<std::ptrdiff_t>(i) * cut.out_pixels * cut.group);
      }
      float* const pivot = pivots.data() + static_cast<std::size_t>(unit) * 3 * cut.wide + g * cut.group;
      std::copy_n(filtered, cut.group, pivot);
      work.sums(filtered, out_pixels, cut.group, pivot, pivot + cut.wide, pivot + 2 * cut.wide);
      stored(filtered, cut.group, out_pixels, cut.group, kept_group);
    }
  });
  filtered_statistics(pivots);
}

// Mean and variance of the batch from those of its units (Chan, Golub and LeVeque 1979).
template <class T>
void Training::ResidualCall<T>::filtered_statistics(const Floats& pivots) {
  for (int c = 0; c < expanded; c++) {
    double count = 0, middle = 0, squares = 0;
    for (int unit = 0; unit < cut.units; unit++) {
      const float* const found = pivots.data() + static_cast<std::size_t>(unit) * 3 * cut.wide + c;
      const double n = static_cast<double>(cut.size(unit)) * cut.out_pixels;
      const double away = found[cut.wide] / n, apart = found[0] + away - middle;
      squares += found[2 * cut.wide] - away * away * n + apart * apart * count * n / (count + n);
      middle += apart * n / (count + n);
      count += n;
    }
    out_mean()[c] = static_cast<float>(middle);
    out_variance()[c] = static_cast<float>(std::max(0.0, squares / count));
  }
}

template <class T>
void Training::ResidualCall<T>::project(const Packed<T>& packed, const Normal& second, T* out) {
  training.pool_.parallel(cut.units, [&](int unit, int slot) {
    Scratch memory = scratch(slot, kept_size + narrow_size);
    T* const limited = memory.template take<T>(kept_size);
    T* const to = out + cut.out_pixel(unit) * out_channels;
    float* const projected = computed(to, out_channels, cut.narrow, memory.at);
    const int pixels = cut.size(unit) * cut.out_pixels;
    for (int g = 0; g < cut.groups; g++) {
      const Norm norm = {second.scale.data() + g * cut.group, second.bias.data() + g * cut.group, true};
      at.normalise(kept.depthwise + cut.kept(unit, g), pixels, cut.group, norm, limited);
      at.product({units(limited), cut.group / PER, 1,
                  packed.project.data() + static_cast<std::size_t>(g) * cut.group / PER * cut.narrow, cut.narrow,
                  projected, cut.narrow, pixels, cut.narrow, cut.group / PER, nullptr, g > 0, false});
    }
    stored(projected, cut.narrow, pixels, out_channels, to);
  });
}

// The gradients of the projection and the second batch norm. The gradient before the projection is made here for its
// sums, and again by filter_gradient().
template <class T>
typename Training::ResidualCall<T>::Back Training::ResidualCall<T>::project_gradient(const Packed<T>& packed,
                                                                                     const Normal& second,
                                                                                     const T* gradient,
                                                                                     const ResidualGradients& to) {
  Floats pivot(cut.wide, 0.0f);
  std::copy_n(out_mean(), expanded, pivot.data());
  Parts sums(cut.slices, 2 * cut.wide), for_project(cut.slices, static_cast<std::size_t>(out_channels) * cut.wide);
  by_slices([&](int slice, int unit, int slot) {
    Scratch memory = scratch(slot, 3 * kept_size + narrow_size + 3 * cut.group + out_channels);
    float* const slope = memory.template take<float>(kept_size);
    T* const limited = memory.template take<T>(kept_size);
    float* const sum = memory.template take<float>(2 * cut.group);
    const int pixels = cut.size(unit) * cut.out_pixels;
    const T* const from = gradient + cut.out_pixel(unit) * out_channels;
    const Unit<T>* const by_pixels =
        paired(from, pixels, out_channels, memory.template take<float>(narrow_size + out_channels));
    for (int g = 0; g < cut.groups; g++) {
      const int c = g * cut.group;
      const Norm norm = {second.scale.data() + c, second.bias.data() + c, true};
      const T* const filtered = kept.depthwise + cut.kept(unit, g);
      unproject(packed, from, g, pixels, slope);
      at.gradient_sums_kept(slope, filtered, pixels, cut.group, norm, pivot.data() + c, sum, sum + cut.group);
      add_to(sums.of(slice) + c, sum, cut.group);
      add_to(sums.of(slice) + cut.wide + c, sum + cut.group, cut.group);
      at.normalise(filtered, pixels, cut.group, norm, limited);
      at.product({by_pixels, 1, out_channels, paired(limited, pixels, cut.group, memory.at), cut.group,
                  for_project.of(slice) + c, cut.wide, out_channels, cut.group, per_unit(pixels), nullptr, true,
                  false});
    }
  });
  const Doubles project = for_project.total();
  for (int o = 0; o < out_channels; o++) {
    for (int c = 0; c < expanded; c++) {
      to.project[o * expanded + c] = static_cast<float>(project[static_cast<std::size_t>(o) * cut.wide + c]);
    }
  }
  const Doubles sum = sums.total();
  Back back{Floats(cut.wide, 0.0f), Floats(cut.wide, 0.0f), Floats(cut.wide, 0.0f)};
  for (int c = 0; c < expanded; c++) {
    const double product = sum[cut.wide + c] * second.deviation[c];  // with the normalised input
    to.norms[2 * expanded + c] = static_cast<float>(product);
    to.norms[3 * expanded + c] = static_cast<float>(sum[c]);
    const double slope = -static_cast<double>(second.scale[c]) * second.deviation[c] * product / out_count;
    back.a[c] = second.scale[c];
    back.b[c] = static_cast<float>(slope);
    back.c[c] = static_cast<float>(-second.scale[c] * sum[c] / out_count - slope * out_mean()[c]);
  }
  return back;
}

// Back through the filter and the expansion, but for what the first batch norm adds.
template <class T>
typename Training::ResidualCall<T>::Found Training::ResidualCall<T>::filter_gradient(
    const Packed<T>& packed, const Normal& first, const Normal& second, const Back& back, const T* gradient, T* out) {
  Parts for_taps(cut.slices, static_cast<std::size_t>(9) * cut.wide), for_bias(cut.slices, cut.wide),
      for_expand(cut.slices, static_cast<std::size_t>(channels) * cut.wide);
  std::unique_ptr<float[]> buffer;
  if (!FLOATS || cut.thin != channels) {
    buffer.reset(new float[static_cast<std::size_t>(cut.images) * cut.in_pixels * cut.thin]);
  }
  by_slices([&](int slice, int unit, int slot) {
    Scratch memory = scratch(slot, 2 * thin_size + kept_size + 4 * group_size + 10 * cut.group + cut.thin);
    T* const u = memory.template take<T>(thin_size);
    float* const slope = memory.template take<float>(kept_size);
    float* const limited = memory.template take<float>(group_size);
    float* const wide = memory.template take<float>(group_size);
    float* const sum = memory.template take<float>(9 * cut.group);
    const int pixels = cut.size(unit) * cut.in_pixels, out_pixels = cut.size(unit) * cut.out_pixels;
    const T* const from = gradient + cut.out_pixel(unit) * out_channels;
    centre(unit, u);
    const Unit<T>* const by_pixels = paired(u, pixels, cut.thin, memory.template take<float>(thin_size + cut.thin));
    T* const clipped = place(wide, memory.template take<T>(group_size));
    for (int g = 0; g < cut.groups; g++) {
      const int c = g * cut.group;
      const Norm norm = {second.scale.data() + c, second.bias.data() + c, true};
      unproject(packed, from, g, out_pixels, slope);
      at.gradient_kept(slope, kept.depthwise + cut.kept(unit, g), out_pixels, cut.group, norm, back.a.data() + c,
                       back.b.data() + c, back.c.data() + c, slope);
      expand(packed, first, u, g, pixels, limited);
      for (int i = 0; i < cut.size(unit); i++) {
        const std::ptrdiff_t image = static_cast<std::ptrdiff_t>(i) * cut.in_pixels * cut.group;
        work.depthwise_gradient(maps_of(shape, limited + image, cut.group),
                                slope + static_cast<std::ptrdiff_t>(i) * cut.out_pixels * cut.group,
                                packed.taps.data() + static_cast<std::size_t>(g) * 9 * cut.group, wide + image, sum);
        add_to(for_taps.of(slice) + static_cast<std::size_t>(g) * 9 * cut.group, sum, 9 * cut.group);
      }
      at.clip(limited, wide, pixels, cut.group, clipped, sum);
      add_to(for_bias.of(slice) + c, sum, cut.group);
      at.product({by_pixels, 1, cut.thin, paired(clipped, pixels, cut.group, memory.at), cut.group,
                  for_expand.of(slice) + c, cut.wide, channels, cut.group, per_unit(pixels), nullptr, true, false});
      at.product({units(clipped), cut.group / PER, 1, packed.back.data() + static_cast<std::size_t>(c) / PER * cut.thin,
                  cut.thin, thin(buffer, unit, out), cut.thin, pixels, cut.thin, cut.group / PER, nullptr, g > 0,
                  false});
    }
  });
  return {for_taps.total(), for_bias.total(), for_expand.total(), std::move(buffer)};
}

// The gradients of the taps, the first batch norm, the expansion and the input.
template <class T>
void Training::ResidualCall<T>::input_gradient(const Normal& first, Found& found, T* out, const ResidualGradients& to) {
  const Floats spread = times_moments(shape, cut, work, weights.expand, kept.moments);
  Floats by_input(static_cast<std::size_t>(expanded) * cut.thin, 0.0f), shift(cut.thin, 0.0f);
  for (int c = 0; c < expanded; c++) {
    const float* const row = weights.expand + c * channels;
    double product = 0;  // with the normalised expansion
    for (int k = 0; k < channels; k++) product += row[k] * found.expand[static_cast<std::size_t>(k) * cut.wide + c];
    product *= first.deviation[c];
    to.norms[c] = static_cast<float>(product);
    to.norms[expanded + c] = static_cast<float>(found.bias[c]);
    const double slope = -static_cast<double>(first.scale[c]) * first.deviation[c] * product / in_count;
    const double middle = -first.scale[c] * found.bias[c] / in_count;
    for (int k = 0; k < channels; k++) {
      to.expand[c * channels + k] =
          static_cast<float>(first.scale[c] * found.expand[static_cast<std::size_t>(k) * cut.wide + c] +
                             slope * spread[static_cast<std::size_t>(c) * cut.thin + k]);
      by_input[static_cast<std::size_t>(c) * cut.thin + k] = static_cast<float>(slope * row[k]);
      shift[k] += static_cast<float>(middle * row[k]);
    }
    for (int i = 0; i < 9; i++) {
      to.taps[c * 9 + i] =
          static_cast<float>(found.taps[(static_cast<std::size_t>(c / cut.group) * 9 + i) * cut.group + c % cut.group]);
    }
  }
  Floats square(static_cast<std::size_t>(channels) * cut.thin);
  work.product({weights.expand, 1, channels, by_input.data(), cut.thin, square.data(), cut.thin, channels, cut.thin,
                expanded, nullptr, false, false});
  const std::vector<Unit<T>> by_square = mobilenetv2::paired(at, square, cut.thin);
  training.pool_.parallel(cut.units, [&](int unit, int slot) {
    T* const u = scratch(slot, thin_size).template take<T>(thin_size);
    const int pixels = cut.size(unit) * cut.in_pixels;
    centre(unit, u);
    T* const to_unit = out + cut.in_pixel(unit) * channels;
    float* const total = thin(found.thin, unit, out);
    at.product({units(u), cut.thin / PER, 1, by_square.data(), cut.thin, total, cut.thin, pixels, cut.thin,
                channels / PER, shift.data(), true, false});
    stored(total, cut.thin, pixels, channels, to_unit);
  });
}

template <class T>
void Training::residual(const ResidualShape& shape, const ResidualWeights& weights, const T* in,
                        const ResidualKept<T>& kept, T* out) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  ResidualCall<T> call(*this, shape, weights, in, kept);
  call.moments();
  call.expanded_statistics();
  const Normal first = call.first_normal();
  const Packed<T> packed(shape, call.cut, weights, first, call.at);
  call.filter(packed, first);
  call.project(packed, call.second_normal(), out);
}

template <class T>
void Training::residual_gradient(const ResidualShape& shape, const ResidualWeights& weights, const T* in,
                                 const ResidualKept<T>& kept, const T* gradient, T* out,
                                 const ResidualGradients& gradients) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  ResidualCall<T> call(*this, shape, weights, in, kept);
  const Normal first = call.first_normal(), second = call.second_normal();
  const Packed<T> packed(shape, call.cut, weights, first, call.at);
  const auto back = call.project_gradient(packed, second, gradient, gradients);
  auto found = call.filter_gradient(packed, first, second, back, gradient, out);
  call.input_gradient(first, found, out, gradients);
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
