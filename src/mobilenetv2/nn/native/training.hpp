// Batch norm with ReLU6, the depthwise convolution and the inverted residual for whole batches, forward and backward,
// in several threads. The results do not depend on the number of threads: partial sums are added in a fixed order.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "../../runtime/native/pool.hpp"
#include "passes.hpp"
#include "residual.hpp"

namespace mobilenetv2 {

class Training {
 public:
  // `isa` is "scalar", "avx2", "avx512" or "avx512bf16". Throws std::invalid_argument if the machine does not have it.
  Training(const std::string& isa, int threads);

  // Batch norm of `pixels` x `channels`: writes the mean and the biased variance of the batch, and the result.
  template <class T>
  void norm(const T* in, std::ptrdiff_t pixels, int channels, const float* weight, const float* bias, float epsilon,
            bool relu6, float* mean, float* variance, T* out);

  // From the gradient of the result of norm(): the gradients of the batch, the weight and the bias.
  template <class T>
  void norm_gradient(const T* gradient, const T* in, std::ptrdiff_t pixels, int channels, const float* weight,
                     const float* bias, float epsilon, bool relu6, const float* mean, const float* variance, T* out,
                     float* weight_gradient, float* bias_gradient);

  // `maps` are those of the first image; the weights are channels x 3 x 3.
  template <class T>
  void depthwise(const Maps<T>& maps, int images, const float* weights, T* out);

  template <class T>
  void depthwise_gradient(const Maps<T>& maps, int images, const T* gradient, const float* weights, T* out,
                          float* weight_gradient);

  // `in` is images x height x width x channels; `out` is the output of the projection.
  template <class T>
  void residual(const ResidualShape& shape, const ResidualWeights& weights, const T* in, const ResidualKept<T>& kept,
                T* out);

  // `gradient` is the gradient of the result of residual(); `out` is the gradient of `in`.
  template <class T>
  void residual_gradient(const ResidualShape& shape, const ResidualWeights& weights, const T* in,
                         const ResidualKept<T>& kept, const T* gradient, T* out, const ResidualGradients& gradients);

  // Expanded channels per group; those of ResidualKept::depthwise are rounded up to whole groups.
  int group() const { return float_->group; }

 private:
  template <class T>
  struct ResidualCall;

  template <class T>
  const Passes<T>& passes() const;
  // Calls body(slice, unit, slot) for each unit; the units of a slice in order and in one thread.
  template <class Body>
  void by_slices(int slices, int units, Body&& body);
  float* scratch(int slot, std::size_t size);  // valid until the next call with this slot

  const Passes<float>* float_;
  const Passes<bfloat16>* bfloat16_;
  Pool pool_;
  std::vector<std::vector<float>> scratch_;
  std::mutex one_at_a_time_;
};

template <>
inline const Passes<float>& Training::passes<float>() const {
  return *float_;
}

template <>
inline const Passes<bfloat16>& Training::passes<bfloat16>() const {
  return *bfloat16_;
}

}  // namespace mobilenetv2
