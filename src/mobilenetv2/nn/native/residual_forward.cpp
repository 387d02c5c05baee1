#include <algorithm>

#include "residual_call.hpp"

namespace mobilenetv2 {

// Mean and filter_norm moments of the input.
template <class T>
void Training::ResidualCall<T>::moments() {
  PartialSums sums(partition.slices, channels);
  by_slices([&](int slice, int unit, int slot) {
    float* const sum = training.scratch(slot, 2 * channels);
    passes.sums(in + partition.in_pixel(unit) * channels, partition.size(unit) * partition.in_pixels, channels,
                zeros.data(), sum, sum + channels);
    block::add_to(sums.of(slice), sum, channels);
  });
  const Doubles sum = sums.total();
  for (int k = 0; k < channels; k++) kept.moments[k] = static_cast<float>(sum[k] / in_count);
  PartialSums products(partition.slices, static_cast<std::size_t>(channels) * partition.thin);
  by_slices([&](int slice, int unit, int slot) {
    Scratch memory = scratch(slot, 2 * thin_size + partition.thin);
    T* const u = memory.template take<T>(thin_size);
    const int pixels = partition.size(unit) * partition.in_pixels;
    centre(unit, u);
    const Factor<T>* const by_pixels = factors_by_pixel(u, pixels, partition.thin, memory.next);
    passes.product({by_pixels, 1, partition.thin, by_pixels, partition.thin, products.of(slice), partition.thin,
                    channels, partition.thin, factor_count(pixels), nullptr, true, false});
  });
  const Doubles product = products.total();
  for (int k = 0; k < channels; k++) {
    for (int j = 0; j < channels; j++) {
      kept.moments[(1 + k) * channels + j] =
          static_cast<float>(product[static_cast<std::size_t>(k) * partition.thin + j]);
    }
  }
}

// Mean and variance of the expansion, from the moments.
template <class T>
void Training::ResidualCall<T>::expanded_statistics() {
  const Floats weighted_moments = block::times_moments(shape, partition, float_passes, weights.expand, kept.moments);
  for (int c = 0; c < expanded; c++) {
    double average = 0, square = 0;
    for (int k = 0; k < channels; k++) {
      const double weight = weights.expand[c * channels + k];
      average += weight * kept.moments[k];
      square += weight * weighted_moments[static_cast<std::size_t>(c) * partition.thin + k];
    }
    mean()[c] = static_cast<float>(average);
    variance()[c] = static_cast<float>(std::max(0.0, square / in_count));
  }
}

// Expands and filters; computes the statistics of the result.
template <class T>
void Training::ResidualCall<T>::filter(const PackedWeights& packed, const NormFactors& expand_norm) {
  // per unit: pivot, sum, squares
  Floats pivots(static_cast<std::size_t>(partition.units) * 3 * partition.wide);
  training.pool_.parallel(partition.units, [&](int unit, int slot) {
    Scratch memory = scratch(slot, thin_size + group_size + kept_size);
    T* const u = memory.template take<T>(thin_size);
    float* const wide = memory.template take<float>(group_size);
    const int out_pixels = partition.size(unit) * partition.out_pixels;
    centre(unit, u);
    for (int g = 0; g < partition.groups; g++) {
      T* const kept_group = kept.depthwise + partition.kept(unit, g);
      float* const filtered = computed(kept_group, partition.group, partition.group, memory.next);
      expand(packed, expand_norm, u, g, partition.size(unit) * partition.in_pixels, wide);
      for (int i = 0; i < partition.size(unit); i++) {
        float_passes.depthwise(
            block::maps_of(shape, wide + static_cast<std::ptrdiff_t>(i) * partition.in_pixels * partition.group,
                           partition.group),
            packed.taps.data() + static_cast<std::size_t>(g) * 9 * partition.group,
            filtered + static_cast<std::ptrdiff_t>(i) * partition.out_pixels * partition.group);
      }
      float* const pivot = pivots.data() + static_cast<std::size_t>(unit) * 3 * partition.wide + g * partition.group;
      std::copy_n(filtered, partition.group, pivot);
      float_passes.sums(filtered, out_pixels, partition.group, pivot, pivot + partition.wide,
                        pivot + 2 * partition.wide);
      convert(filtered, partition.group, out_pixels, partition.group, kept_group);
    }
  });
  filtered_statistics(pivots);
}

// Mean and variance of the batch from those of its units (Chan, Golub and LeVeque 1979).
template <class T>
void Training::ResidualCall<T>::filtered_statistics(const Floats& pivots) {
  for (int c = 0; c < expanded; c++) {
    double count = 0, average = 0, squares = 0;
    for (int unit = 0; unit < partition.units; unit++) {
      const float* const part = pivots.data() + static_cast<std::size_t>(unit) * 3 * partition.wide + c;
      const double n = static_cast<double>(partition.size(unit)) * partition.out_pixels;
      const double offset = part[partition.wide] / n, difference = part[0] + offset - average;
      squares += part[2 * partition.wide] - offset * offset * n + difference * difference * count * n / (count + n);
      average += difference * n / (count + n);
      count += n;
    }
    out_mean()[c] = static_cast<float>(average);
    out_variance()[c] = static_cast<float>(std::max(0.0, squares / count));
  }
}

template <class T>
void Training::ResidualCall<T>::project(const PackedWeights& packed, const NormFactors& filter_norm, T* out) {
  training.pool_.parallel(partition.units, [&](int unit, int slot) {
    Scratch memory = scratch(slot, kept_size + narrow_size);
    T* const limited = memory.template take<T>(kept_size);
    T* const to = out + partition.out_pixel(unit) * out_channels;
    float* const projected = computed(to, out_channels, partition.narrow, memory.next);
    const int pixels = partition.size(unit) * partition.out_pixels;
    for (int g = 0; g < partition.groups; g++) {
      const Norm norm = {filter_norm.scale.data() + g * partition.group, filter_norm.bias.data() + g * partition.group,
                         true};
      passes.normalise(kept.depthwise + partition.kept(unit, g), pixels, partition.group, norm, limited);
      passes.product({factors(limited), partition.group / PER, 1,
                      packed.project.data() + static_cast<std::size_t>(g) * partition.group / PER * partition.narrow,
                      partition.narrow, projected, partition.narrow, pixels, partition.narrow, partition.group / PER,
                      nullptr, g > 0, false});
    }
    convert(projected, partition.narrow, pixels, out_channels, to);
  });
}

template <class T>
void Training::residual(const ResidualShape& shape, const ResidualWeights& weights, const T* in,
                        const ResidualKept<T>& kept, T* out) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  ResidualCall<T> call(*this, shape, weights, in, kept);
  call.moments();
  call.expanded_statistics();
  const block::NormFactors expand_norm = call.expand_norm();
  const block::PackedWeights<T> packed(shape, call.partition, weights, expand_norm, call.passes);
  call.filter(packed, expand_norm);
  call.project(packed, call.filter_norm(), out);
}

template void Training::residual<float>(const ResidualShape&, const ResidualWeights&, const float*,
                                        const ResidualKept<float>&, float*);
template void Training::residual<bfloat16>(const ResidualShape&, const ResidualWeights&, const bfloat16*,
                                           const ResidualKept<bfloat16>&, bfloat16*);

}  // namespace mobilenetv2
