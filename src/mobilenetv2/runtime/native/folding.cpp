#include "folding.hpp"

#include <algorithm>
#include <cmath>

#include "finite.hpp"

namespace mobilenetv2 {

bool fold(const Kernel& kernel, const Norm& norm, const Normalization& pixels, const Folded& folded) {
  const std::size_t places = kernel.size * kernel.size;
  const std::size_t across = kernel.depthwise ? folded.outputs : folded.inputs;  // numbers of a place
  const std::size_t count = places * across * (kernel.depthwise ? 1 : folded.outputs);
  if (folded.outputs > kernel.outputs || folded.inputs > kernel.inputs) {
    std::fill_n(folded.weights, count, 0.0f);
    std::fill_n(folded.bias, folded.outputs, 0.0f);
  }
  const float* values = kernel.values;
  for (std::size_t output = 0; output < kernel.outputs; output++) {
    double scale = 1.0, bias = norm.beta ? norm.beta[output] : 0.0, shift = 0.0;
    if (norm.gamma) {
      scale = norm.gamma[output] / std::sqrt(norm.variance[output] + norm.epsilon);
      bias -= norm.mean[output] * scale;
    }
    float* const out = folded.weights + (kernel.depthwise ? output : output * places * across);
    if (places == 1 && !pixels.scale) {  // nearly all of a network: along memory
      for (std::size_t input = 0; input < kernel.inputs; input++)
        out[input] = static_cast<float>(values[input] * scale);
      values += kernel.inputs;
    } else {
      for (std::size_t input = 0; input < kernel.inputs; input++) {
        for (std::size_t place = 0; place < places; place++) {
          double weight = *values++ * scale;
          if (pixels.scale) {
            shift += weight * pixels.offset[input];
            weight *= pixels.scale[input];
          }
          out[place * across + input] = static_cast<float>(weight);
        }
      }
    }
    folded.bias[output] = static_cast<float>(bias + shift);
  }
  return all_finite(folded.weights, count) && all_finite(folded.bias, folded.outputs);
}

}  // namespace mobilenetv2
