#include <algorithm>

#include "residual_call.hpp"

namespace mobilenetv2 {

// The gradients of the projection and of the second batch norm. The gradient before the projection is computed here for
// its sums, and again by filter_gradient().
template <class T>
typename Training::ResidualCall<T>::NormSlopes Training::ResidualCall<T>::project_gradient(
    const PackedWeights& packed, const NormFactors& filter_norm, const T* gradient, const ResidualGradients& to) {
  Floats pivot(partition.wide, 0.0f);
  std::copy_n(out_mean(), expanded, pivot.data());
  PartialSums sums(partition.slices, 2 * partition.wide),
      for_project(partition.slices, static_cast<std::size_t>(out_channels) * partition.wide);
  by_slices([&](int slice, int unit, int slot) {
    Scratch memory = scratch(slot, 3 * kept_size + narrow_size + 3 * partition.group + out_channels);
    float* const slope = memory.template take<float>(kept_size);
    T* const limited = memory.template take<T>(kept_size);
    float* const sum = memory.template take<float>(2 * partition.group);
    const int pixels = partition.size(unit) * partition.out_pixels;
    const T* const from = gradient + partition.out_pixel(unit) * out_channels;
    const Factor<T>* const by_pixels =
        factors_by_pixel(from, pixels, out_channels, memory.template take<float>(narrow_size + out_channels));
    for (int g = 0; g < partition.groups; g++) {
      const int c = g * partition.group;
      const Norm norm = {filter_norm.scale.data() + c, filter_norm.bias.data() + c, true};
      const T* const filtered = kept.depthwise + partition.kept(unit, g);
      unproject(packed, from, g, pixels, slope);
      passes.gradient_sums_kept(slope, filtered, pixels, partition.group, norm, pivot.data() + c, sum,
                                sum + partition.group);
      block::add_to(sums.of(slice) + c, sum, partition.group);
      block::add_to(sums.of(slice) + partition.wide + c, sum + partition.group, partition.group);
      passes.normalise(filtered, pixels, partition.group, norm, limited);
      passes.product({by_pixels, 1, out_channels, factors_by_pixel(limited, pixels, partition.group, memory.next),
                      partition.group, for_project.of(slice) + c, partition.wide, out_channels, partition.group,
                      factor_count(pixels), nullptr, true, false});
    }
  });
  const Doubles project = for_project.total();
  for (int o = 0; o < out_channels; o++) {
    for (int c = 0; c < expanded; c++) {
      to.project[o * expanded + c] = static_cast<float>(project[static_cast<std::size_t>(o) * partition.wide + c]);
    }
  }
  const Doubles sum = sums.total();
  NormSlopes slopes{Floats(partition.wide, 0.0f), Floats(partition.wide, 0.0f), Floats(partition.wide, 0.0f)};
  for (int c = 0; c < expanded; c++) {
    const double product = sum[partition.wide + c] * filter_norm.deviation[c];  // with the normalised input
    to.norms[2 * expanded + c] = static_cast<float>(product);
    to.norms[3 * expanded + c] = static_cast<float>(sum[c]);
    const double slope = -static_cast<double>(filter_norm.scale[c]) * filter_norm.deviation[c] * product / out_count;
    slopes.a[c] = filter_norm.scale[c];
    slopes.b[c] = static_cast<float>(slope);
    slopes.c[c] = static_cast<float>(-filter_norm.scale[c] * sum[c] / out_count - slope * out_mean()[c]);
  }
  return slopes;
}

// The gradients of the filter and of the expansion, without the part of the first batch norm.
template <class T>
typename Training::ResidualCall<T>::FilterGradient Training::ResidualCall<T>::filter_gradient(
    const PackedWeights& packed, const NormFactors& expand_norm, const NormFactors& filter_norm,
    const NormSlopes& slopes, const T* gradient, T* out) {
  PartialSums for_taps(partition.slices, static_cast<std::size_t>(9) * partition.wide),
      for_bias(partition.slices, partition.wide),
      for_expand(partition.slices, static_cast<std::size_t>(channels) * partition.wide);
  std::unique_ptr<float[]> buffer;
  if (!FLOATS || partition.thin != channels) {
    buffer.reset(new float[static_cast<std::size_t>(partition.images) * partition.in_pixels * partition.thin]);
  }
  by_slices([&](int slice, int unit, int slot) {
    Scratch memory = scratch(slot, 2 * thin_size + kept_size + 4 * group_size + 10 * partition.group + partition.thin);
    T* const u = memory.template take<T>(thin_size);
    float* const slope = memory.template take<float>(kept_size);
    float* const limited = memory.template take<float>(group_size);
    float* const wide = memory.template take<float>(group_size);
    float* const sum = memory.template take<float>(9 * partition.group);
    const int pixels = partition.size(unit) * partition.in_pixels,
              out_pixels = partition.size(unit) * partition.out_pixels;
    const T* const from = gradient + partition.out_pixel(unit) * out_channels;
    centre(unit, u);
    const Factor<T>* const by_pixels =
        factors_by_pixel(u, pixels, partition.thin, memory.template take<float>(thin_size + partition.thin));
    T* const clipped = place(wide, memory.template take<T>(group_size));
    for (int g = 0; g < partition.groups; g++) {
      const int c = g * partition.group;
      const Norm norm = {filter_norm.scale.data() + c, filter_norm.bias.data() + c, true};
      unproject(packed, from, g, out_pixels, slope);
      passes.gradient_kept(slope, kept.depthwise + partition.kept(unit, g), out_pixels, partition.group, norm,
                           slopes.a.data() + c, slopes.b.data() + c, slopes.c.data() + c, slope);
      expand(packed, expand_norm, u, g, pixels, limited);
      for (int i = 0; i < partition.size(unit); i++) {
        const std::ptrdiff_t image = static_cast<std::ptrdiff_t>(i) * partition.in_pixels * partition.group;
        float_passes.depthwise_gradient(block::maps_of(shape, limited + image, partition.group),
                                        slope + static_cast<std::ptrdiff_t>(i) * partition.out_pixels * partition.group,
                                        packed.taps.data() + static_cast<std::size_t>(g) * 9 * partition.group,
                                        wide + image, sum);
        block::add_to(for_taps.of(slice) + static_cast<std::size_t>(g) * 9 * partition.group, sum, 9 * partition.group);
      }
      passes.clip_gradient(limited, wide, pixels, partition.group, clipped, sum);
      block::add_to(for_bias.of(slice) + c, sum, partition.group);
      passes.product({by_pixels, 1, partition.thin, factors_by_pixel(clipped, pixels, partition.group, memory.next),
                      partition.group, for_expand.of(slice) + c, partition.wide, channels, partition.group,
                      factor_count(pixels), nullptr, true, false});
      passes.product({factors(clipped), partition.group / PER, 1,
                      packed.back.data() + static_cast<std::size_t>(c) / PER * partition.thin, partition.thin,
                      thin(buffer, unit, out), partition.thin, pixels, partition.thin, partition.group / PER, nullptr,
                      g > 0, false});
    }
  });
  return {for_taps.total(), for_bias.total(), for_expand.total(), std::move(buffer)};
}

// The gradients of the taps, of the first batch norm, of the expansion and of the input.
template <class T>
void Training::ResidualCall<T>::input_gradient(const NormFactors& expand_norm, FilterGradient& filtered, T* out,
                                               const ResidualGradients& to) {
  const Floats weighted_moments = block::times_moments(shape, partition, float_passes, weights.expand, kept.moments);
  Floats by_input(static_cast<std::size_t>(expanded) * partition.thin, 0.0f), shift(partition.thin, 0.0f);
  for (int c = 0; c < expanded; c++) {
    const float* const row = weights.expand + c * channels;
    double product = 0;  // with the normalised expansion
    for (int k = 0; k < channels; k++)
      product += row[k] * filtered.expand[static_cast<std::size_t>(k) * partition.wide + c];
    product *= expand_norm.deviation[c];
    to.norms[c] = static_cast<float>(product);
    to.norms[expanded + c] = static_cast<float>(filtered.bias[c]);
    const double slope = -static_cast<double>(expand_norm.scale[c]) * expand_norm.deviation[c] * product / in_count;
    const double average = -expand_norm.scale[c] * filtered.bias[c] / in_count;
    for (int k = 0; k < channels; k++) {
      to.expand[c * channels + k] =
          static_cast<float>(expand_norm.scale[c] * filtered.expand[static_cast<std::size_t>(k) * partition.wide + c] +
                             slope * weighted_moments[static_cast<std::size_t>(c) * partition.thin + k]);
      by_input[static_cast<std::size_t>(c) * partition.thin + k] = static_cast<float>(slope * row[k]);
      shift[k] += static_cast<float>(average * row[k]);
    }
    for (int i = 0; i < 9; i++) {
      to.taps[c * 9 + i] = static_cast<float>(
          filtered
              .taps[(static_cast<std::size_t>(c / partition.group) * 9 + i) * partition.group + c % partition.group]);
    }
  }
  Floats square(static_cast<std::size_t>(channels) * partition.thin);
  float_passes.product({weights.expand, 1, channels, by_input.data(), partition.thin, square.data(), partition.thin,
                        channels, partition.thin, expanded, nullptr, false, false});
  const std::vector<Factor<T>> by_square = block::pair_factors(passes, square, partition.thin);
  training.pool_.parallel(partition.units, [&](int unit, int slot) {
    T* const u = scratch(slot, thin_size).template take<T>(thin_size);
    const int pixels = partition.size(unit) * partition.in_pixels;
    centre(unit, u);
    T* const to_unit = out + partition.in_pixel(unit) * channels;
    float* const total = thin(filtered.thin, unit, out);
    passes.product({factors(u), partition.thin / PER, 1, by_square.data(), partition.thin, total, partition.thin,
                    pixels, partition.thin, channels / PER, shift.data(), true, false});
    convert(total, partition.thin, pixels, channels, to_unit);
  });
}

template <class T>
void Training::residual_gradient(const ResidualShape& shape, const ResidualWeights& weights, const T* in,
                                 const ResidualKept<T>& kept, const T* gradient, T* out,
                                 const ResidualGradients& gradients) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  ResidualCall<T> call(*this, shape, weights, in, kept);
  const block::NormFactors expand_norm = call.expand_norm(), filter_norm = call.filter_norm();
  const block::PackedWeights<T> packed(shape, call.partition, weights, expand_norm, call.passes);
  const auto slopes = call.project_gradient(packed, filter_norm, gradient, gradients);
  auto filtered = call.filter_gradient(packed, expand_norm, filter_norm, slopes, gradient, out);
  call.input_gradient(expand_norm, filtered, out, gradients);
}

template void Training::residual_gradient<float>(const ResidualShape&, const ResidualWeights&, const float*,
                                                 const ResidualKept<float>&, const float*, float*,
                                                 const ResidualGradients&);
template void Training::residual_gradient<bfloat16>(const ResidualShape&, const ResidualWeights&, const bfloat16*,
                                                    const ResidualKept<bfloat16>&, const bfloat16*, bfloat16*,
                                                    const ResidualGradients&);

}  // namespace mobilenetv2
