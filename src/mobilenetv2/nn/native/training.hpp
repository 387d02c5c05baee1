// Batch norm with ReLU6 and the depthwise convolution over whole batches, forward and backward, by several threads. The
// results do not depend on the number of threads: sums are made chunk by chunk and added in order.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "../../runtime/native/pool.hpp"
#include "passes.hpp"

namespace mobilenetv2 {

class Training {
 public:
  // Throws std::invalid_argument if `isa` is none of this machine's "scalar", "avx2", "avx512".
  Training(const std::string& isa, int threads);

  // Batch norm of `pixels` x `channels`: mean and (biased) variance of the batch, and what it makes of the batch.
  template <class T>
  void norm(const T* in, std::ptrdiff_t pixels, int channels, const float* weight, const float* bias, float epsilon,
            bool relu6, float* mean, float* variance, T* out);

  // The gradients for the batch, the weight and the bias, from the gradient of what norm() wrote.
  template <class T>
  void norm_gradient(const T* gradient, const T* in, std::ptrdiff_t pixels, int channels, const float* weight,
                     const float* bias, float epsilon, bool relu6, const float* mean, const float* variance, T* out,
                     float* weight_gradient, float* bias_gradient);

  // `maps` is of the first picture; weights channels x 3 x 3.
  template <class T>
  void depthwise(const Maps<T>& maps, int pictures, const float* weights, T* out);

  template <class T>
  void depthwise_gradient(const Maps<T>& maps, int pictures, const T* gradient, const float* weights, T* out,
                          float* weight_gradient);

 private:
  template <class T>
  const Passes<T>& passes() const;

  const Passes<float>* float_;
  const Passes<bfloat16>* bfloat16_;
  Pool pool_;
  std::mutex one_at_a_time_;
};

}  // namespace mobilenetv2
