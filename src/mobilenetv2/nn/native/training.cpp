#include "training.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "../../runtime/native/cpu.hpp"
#include "built_targets.hpp"  // written by CMake from runtime/native/targets.def

namespace mobilenetv2 {

#define MNV2_DECLARE_PASSES(name, floats)          \
  namespace name##_training {                      \
    extern const Passes<float> float_passes;       \
    extern const Passes<bfloat16> bfloat16_passes; \
  }
MNV2_TRAINING_TARGETS(MNV2_DECLARE_PASSES)

namespace {

constexpr int CHUNK = 512;  // pixels that are summed in float; chunks are summed in double

struct Target {
  const char* isa;
  const Passes<float>* floats;
  const Passes<bfloat16>* bfloats;
};
#define MNV2_TARGET_ROW(name, floats) {#name, &floats##_training::float_passes, &name##_training::bfloat16_passes},
constexpr Target TARGETS[] = {MNV2_TRAINING_TARGETS(MNV2_TARGET_ROW)};

// The sum of `count` rows of `size` floats, in order.
std::vector<double> sum_of_rows(const std::vector<float>& rows, std::ptrdiff_t count, std::ptrdiff_t size) {
  std::vector<double> total(size, 0.0);
  for (std::ptrdiff_t row = 0; row < count; row++) {
    for (std::ptrdiff_t i = 0; i < size; i++) total[i] += rows[row * size + i];
  }
  return total;
}

struct Affine {
  std::vector<float> scale, shift;
};

Affine affine(int channels, const float* weight, const float* bias, float epsilon, const float* mean,
              const float* variance) {
  Affine result{std::vector<float>(channels), std::vector<float>(channels)};
  for (int c = 0; c < channels; c++) {
    const double scale = weight[c] / std::sqrt(static_cast<double>(variance[c]) + epsilon);
    result.scale[c] = static_cast<float>(scale);
    result.shift[c] = static_cast<float>(bias[c] - mean[c] * scale);
  }
  return result;
}

// channels x 9 -> 9 x channels.
std::vector<float> transposed_taps(const float* weights, int channels) {
  std::vector<float> taps(9 * static_cast<std::size_t>(channels));
  for (int c = 0; c < channels; c++) {
    for (int i = 0; i < 9; i++) taps[i * channels + c] = weights[c * 9 + i];
  }
  return taps;
}

template <class T>
Maps<T> image(Maps<T> maps, int index) {
  maps.in += static_cast<std::ptrdiff_t>(index) * maps.in_height * maps.in_width * maps.channels;
  return maps;
}

template <class T>
std::ptrdiff_t out_size(const Maps<T>& maps) {
  return static_cast<std::ptrdiff_t>(maps.out_height) * maps.out_width * maps.channels;
}

}  // namespace

template <class T>
const Passes<T>* find_passes(const char* isa) {
  for (const Target& each : TARGETS) {
    if (std::strcmp(isa, each.isa) != 0 || !runs_here(isa)) continue;
    if constexpr (std::is_same_v<T, float>) {
      return each.floats;
    } else {
      return each.bfloats;
    }
  }
  return nullptr;
}
template const Passes<float>* find_passes<float>(const char*);
template const Passes<bfloat16>* find_passes<bfloat16>(const char*);

Training::Training(const std::string& isa, int threads)
    : float_(find_passes<float>(isa.c_str())),
      bfloat16_(find_passes<bfloat16>(isa.c_str())),
      pool_(threads),
      scratch_(pool_.threads()) {
  if (!float_) throw std::invalid_argument("no instruction set " + isa);
}

float* Training::scratch(int slot, std::size_t size) {
  std::vector<float>& memory = scratch_[slot];
  if (memory.size() < size) memory.resize(size);
  return memory.data();
}

template <class T>
void Training::norm(const T* in, std::ptrdiff_t pixels, int channels, const float* weight, const float* bias,
                    float epsilon, bool relu6, float* mean, float* variance, T* out) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  const int chunks = static_cast<int>((pixels + CHUNK - 1) / CHUNK);
  std::vector<float> partial(2 * static_cast<std::size_t>(chunks) * channels);
  std::vector<float> pivot(channels, 0.0f);  // the first pixel: near the mean, which avoids cancellation
  passes<T>().sums(in, 1, channels, pivot.data(), mean, variance);
  std::copy(mean, mean + channels, pivot.begin());
  const auto width = [&](int chunk) {
    return static_cast<int>(std::min<std::ptrdiff_t>(CHUNK, pixels - static_cast<std::ptrdiff_t>(chunk) * CHUNK));
  };
  const auto offset = [&](int chunk) { return static_cast<std::ptrdiff_t>(chunk) * CHUNK * channels; };
  pool_.parallel(chunks, [&](int chunk, int) {
    float* const sum = partial.data() + 2 * static_cast<std::size_t>(chunk) * channels;
    passes<T>().sums(in + offset(chunk), width(chunk), channels, pivot.data(), sum, sum + channels);
  });
  const std::vector<double> total = sum_of_rows(partial, chunks, 2 * channels);
  for (int c = 0; c < channels; c++) {
    const double from_pivot = total[c] / pixels;
    mean[c] = static_cast<float>(pivot[c] + from_pivot);
    variance[c] = static_cast<float>(std::max(0.0, total[channels + c] / pixels - from_pivot * from_pivot));
  }
  const Affine by = affine(channels, weight, bias, epsilon, mean, variance);
  const Norm norm = {by.scale.data(), by.shift.data(), relu6};
  pool_.parallel(chunks, [&](int chunk, int) {
    passes<T>().normalise(in + offset(chunk), width(chunk), channels, norm, out + offset(chunk));
  });
}

template <class T>
void Training::norm_gradient(const T* gradient, const T* in, std::ptrdiff_t pixels, int channels, const float* weight,
                             const float* bias, float epsilon, bool relu6, const float* mean, const float* variance,
                             T* out, float* weight_gradient, float* bias_gradient) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  const int chunks = static_cast<int>((pixels + CHUNK - 1) / CHUNK);
  std::vector<float> partial(2 * static_cast<std::size_t>(chunks) * channels);
  const auto width = [&](int chunk) {
    return static_cast<int>(std::min<std::ptrdiff_t>(CHUNK, pixels - static_cast<std::ptrdiff_t>(chunk) * CHUNK));
  };
  const auto offset = [&](int chunk) { return static_cast<std::ptrdiff_t>(chunk) * CHUNK * channels; };
  const Affine by = affine(channels, weight, bias, epsilon, mean, variance);
  const Norm norm = {by.scale.data(), by.shift.data(), relu6};
  pool_.parallel(chunks, [&](int chunk, int) {
    float* const sum = partial.data() + 2 * static_cast<std::size_t>(chunk) * channels;
    passes<T>().gradient_sums(gradient + offset(chunk), in + offset(chunk), width(chunk), channels, norm, mean, sum,
                              sum + channels);
  });
  const std::vector<double> total = sum_of_rows(partial, chunks, 2 * channels);
  std::vector<float> a(channels), b(channels), c(channels);
  for (int i = 0; i < channels; i++) {
    const double deviation = 1 / std::sqrt(static_cast<double>(variance[i]) + epsilon);
    const double sum = total[i], product = total[channels + i] * deviation;  // with the normalised input
    weight_gradient[i] = static_cast<float>(product);
    bias_gradient[i] = static_cast<float>(sum);
    const double scale = weight[i] * deviation, slope = -scale * deviation * product / pixels;
    a[i] = static_cast<float>(scale);
    b[i] = static_cast<float>(slope);
    c[i] = static_cast<float>(-scale * sum / pixels - slope * mean[i]);
  }
  pool_.parallel(chunks, [&](int chunk, int) {
    passes<T>().gradient(gradient + offset(chunk), in + offset(chunk), width(chunk), channels, norm, a.data(), b.data(),
                         c.data(), out + offset(chunk));
  });
}

template <class T>
void Training::depthwise(const Maps<T>& maps, int images, const float* weights, T* out) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  const std::vector<float> taps = transposed_taps(weights, maps.channels);
  pool_.parallel(images, [&](int index, int) {
    passes<T>().depthwise(image(maps, index), taps.data(), out + index * out_size(maps));
  });
}

template <class T>
void Training::depthwise_gradient(const Maps<T>& maps, int images, const T* gradient, const float* weights, T* out,
                                  float* weight_gradient) {
  const std::lock_guard<std::mutex> lock(one_at_a_time_);
  const std::vector<float> taps = transposed_taps(weights, maps.channels);
  const std::ptrdiff_t size = 9 * static_cast<std::ptrdiff_t>(maps.channels);
  std::vector<float> partial(size * images);
  const std::ptrdiff_t in_size = static_cast<std::ptrdiff_t>(maps.in_height) * maps.in_width * maps.channels;
  pool_.parallel(images, [&](int index, int) {
    passes<T>().depthwise_gradient(image(maps, index), gradient + index * out_size(maps), taps.data(),
                                   out + index * in_size, partial.data() + index * size);
  });
  const std::vector<double> total = sum_of_rows(partial, images, size);
  for (int c = 0; c < maps.channels; c++) {
    for (int i = 0; i < 9; i++) weight_gradient[c * 9 + i] = static_cast<float>(total[i * maps.channels + c]);
  }
}

#define MNV2_TRAINING(T)                                                                                               \
  template void Training::norm<T>(const T*, std::ptrdiff_t, int, const float*, const float*, float, bool, float*,      \
                                  float*, T*);                                                                         \
  template void Training::norm_gradient<T>(const T*, const T*, std::ptrdiff_t, int, const float*, const float*, float, \
                                           bool, const float*, const float*, T*, float*, float*);                      \
  template void Training::depthwise<T>(const Maps<T>&, int, const float*, T*);                                         \
  template void Training::depthwise_gradient<T>(const Maps<T>&, int, const T*, const float*, T*, float*);
MNV2_TRAINING(float)
MNV2_TRAINING(bfloat16)
#undef MNV2_TRAINING

}  // namespace mobilenetv2
