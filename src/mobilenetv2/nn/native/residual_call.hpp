// One call of Training::residual() or Training::residual_gradient(): what both share.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "residual_layout.hpp"
#include "training.hpp"

namespace mobilenetv2 {

// Calls body(slice, unit, slot) for the units of each slice.
template <class Body>
void Training::by_slices(int slices, int units, Body&& body) {
  pool_.parallel(slices, [&](int slice, int slot) {
    for (int unit = slice * units / slices; unit < (slice + 1) * units / slices; unit++) body(slice, unit, slot);
  });
}

// One call of residual() or residual_gradient(), pass by pass.
template <class T>
struct Training::ResidualCall {
  using Floats = block::Floats;
  using Doubles = block::Doubles;
  using PartialSums = block::PartialSums;
  using NormFactors = block::NormFactors;
  using PackedWeights = block::PackedWeights<T>;

  static constexpr bool FLOATS = std::is_same_v<T, float>;  // maps need no conversion from float
  static constexpr int PER = PER_FACTOR<T>;

  Training& training;
  const ResidualShape& shape;
  const ResidualWeights& weights;
  const T* const in;
  const ResidualKept<T>& kept;
  const Passes<T>& passes;
  const Passes<float>& float_passes;
  const block::Partition partition;
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
        passes(training.passes<T>()),
        float_passes(training.passes<float>()),
        partition(shape, passes.lanes, passes.group),
        channels(shape.channels),
        expanded(shape.expanded),
        out_channels(shape.out_channels),
        in_count(static_cast<double>(partition.images) * partition.in_pixels),
        out_count(static_cast<double>(partition.images) * partition.out_pixels),
        thin_size(static_cast<std::size_t>(partition.per_unit) * partition.in_pixels * partition.thin),
        group_size(static_cast<std::size_t>(partition.per_unit) * partition.in_pixels * partition.group),
        kept_size(static_cast<std::size_t>(partition.per_unit) * partition.out_pixels * partition.group),
        narrow_size(static_cast<std::size_t>(partition.per_unit) * partition.out_pixels * partition.narrow),
        zeros(channels, 0.0f) {}

  // The statistics: of the expansion, then of the depthwise convolution.
  float* mean() const { return kept.statistics; }
  float* variance() const { return kept.statistics + expanded; }
  float* out_mean() const { return kept.statistics + 2 * expanded; }
  float* out_variance() const { return kept.statistics + 3 * expanded; }

  NormFactors expand_norm() const { return NormFactors(weights.expand_norm, variance(), expanded, partition.wide); }
  NormFactors filter_norm() const {
    NormFactors normal(weights.depthwise_norm, out_variance(), expanded, partition.wide);
    normal.include_mean(out_mean(), expanded);
    return normal;
  }

  template <class Body>
  void by_slices(Body&& body) {
    training.by_slices(partition.slices, partition.units, body);
  }

  // Memory of a thread until its next call of scratch(): parts of `size` values each, T or float.
  struct Scratch {
    float* next;
    template <class V>
    V* take(std::size_t size) {
      V* const part = reinterpret_cast<V*>(next);
      next += size;  // bfloat16 values get twice the memory that they need
      return part;
    }
  };
  Scratch scratch(int slot, std::size_t size) { return {training.scratch(slot, size)}; }

  // Neighbours in a row, as factors of products.
  static const Factor<T>* factors(const T* from) { return reinterpret_cast<const Factor<T>*>(from); }
  static int factor_count(int size) { return (size + PER - 1) / PER; }
  // Neighbours in a column, pixel by pixel, as factors of products.
  const Factor<T>* factors_by_pixel(const T* from, int pixels, int channels_, float* buffer) const {
    if constexpr (FLOATS) {
      return from;
    } else {
      Factor<T>* const pairs = reinterpret_cast<Factor<T>*>(buffer);
      passes.pair_rows(from, pixels, channels_, pairs);
      return pairs;
    }
  }

  // The input of a unit minus its means; channels are rounded up.
  void centre(int unit, T* u) const {
    passes.subtract(in + partition.in_pixel(unit) * channels, partition.size(unit) * partition.in_pixels, channels,
                    kept.moments, u, partition.thin);
  }
  // Where to compute floats that belong at `to`: there, or in `buffer` if they need conversion or are rounded up from
  // `channels` to `row`. convert() copies them to `to`.
  float* computed(T* to, int channels_, int row, float* buffer) const {
    if constexpr (FLOATS) {
      if (row == channels_) return to;
    }
    return buffer;
  }
  // Where values computed at `wide` are stored as T: there, or in `buffer` if T is bfloat16.
  static T* place(float* wide, T* buffer) {
    if constexpr (FLOATS) {
      return wide;
    } else {
      return buffer;
    }
  }
  void convert(const float* from, int row, int pixels, int channels_, T* to) const {
    if (static_cast<const void*>(from) != to) passes.convert(from, row, pixels, channels_, to);
  }
  // Computes a group of the expanded map.
  void expand(const PackedWeights& packed, const NormFactors& expand_norm, const T* u, int g, int pixels,
              float* wide) const {
    passes.product({factors(u), partition.thin / PER, 1,
                    packed.expand.data() + static_cast<std::size_t>(g) * channels / PER * partition.group,
                    partition.group, wide, partition.group, pixels, partition.group, channels / PER,
                    expand_norm.bias.data() + g * partition.group, false, true});
  }
  // Computes a group of the gradient before the projection.
  void unproject(const PackedWeights& packed, const T* gradient, int g, int pixels, float* to) const {
    passes.product({factors(gradient), out_channels / PER, 1,
                    packed.project_back.data() + static_cast<std::size_t>(g) * out_channels / PER * partition.group,
                    partition.group, to, partition.group, pixels, partition.group, out_channels / PER, nullptr, false,
                    false});
  }

  void moments();
  void expanded_statistics();
  void filter(const PackedWeights& packed, const NormFactors& expand_norm);
  void filtered_statistics(const Floats& pivots);
  void project(const PackedWeights& packed, const NormFactors& filter_norm, T* out);

  // The gradient of the input of the second batch norm is a * g + b * x + c.
  struct NormSlopes {
    Floats a, b, c;
  };
  NormSlopes project_gradient(const PackedWeights& packed, const NormFactors& filter_norm, const T* gradient,
                              const ResidualGradients& to);
  struct FilterGradient {
    Doubles taps, bias, expand;
    // The gradient of the input without the part of the first batch norm; null if it is already in the output.
    std::unique_ptr<float[]> thin;
  };
  FilterGradient filter_gradient(const PackedWeights& packed, const NormFactors& expand_norm,
                                 const NormFactors& filter_norm, const NormSlopes& slopes, const T* gradient, T* out);
  float* thin(const std::unique_ptr<float[]>& buffer, int unit, T* out) const {
    float* const at_unit = buffer ? buffer.get() + partition.in_pixel(unit) * partition.thin : nullptr;
    return computed(out + partition.in_pixel(unit) * channels, channels, partition.thin, at_unit);
  }
  void input_gradient(const NormFactors& expand_norm, FilterGradient& filtered, T* out, const ResidualGradients& to);
};

}  // namespace mobilenetv2
