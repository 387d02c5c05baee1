// The inverted residual up to its last batch norm as one training operator: expand, batch norm, ReLU6, depthwise, batch
// norm, ReLU6, project. Of its wide maps only the output of the depthwise convolution is kept for the backward pass;
// the expanded map is computed again, for a few channels and images at a time, where it is needed.
//
// Two facts make this possible. The expansion is linear, so the mean and variance of its output follow from the mean
// and the second moments of its input. And the gradient of a batch norm's input is a * g + b * x + c for each channel;
// after the expansion, where x = W u, the last two terms are a small matrix times the input u.
//
// With maps of bfloat16 the products multiply bfloat16 and add floats, as PyTorch's convolutions under autocast do.
#pragma once

#include <cstddef>

namespace mobilenetv2 {

struct ResidualShape {
  int images;
  int height, width, out_height, out_width;
  int stride, top, left;                 // top, left: padding
  int channels, expanded, out_channels;  // multiples of 8
};

struct BatchNorm {
  const float* weight;
  const float* bias;
  float epsilon;
};

struct ResidualWeights {
  const float* expand;  // expanded x channels
  BatchNorm expand_norm;
  const float* taps;  // expanded x 3 x 3
  BatchNorm depthwise_norm;
  const float* project;  // out_channels x expanded
};

// What the forward pass keeps for the backward pass.
template <class T>
struct ResidualKept {
  float* moments;     // (1 + channels) x channels: the means of the input, then the sums of products of differences
  float* statistics;  // 4 x expanded: mean and (biased) variance before each batch norm
  T* depthwise;       // images x out_height x out_width x expanded, rounded up to groups; order: Partition::kept()
};

struct ResidualGradients {
  float* expand;  // shaped as in ResidualWeights
  float* norms;   // 4 x expanded: weight and bias of the first batch norm, then of the second
  float* taps;
  float* project;
};

}  // namespace mobilenetv2
