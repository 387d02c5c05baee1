// The inverted residual up to its last batch norm as one training operator: expand, batch norm, ReLU6, depthwise, batch
// norm, ReLU6, project. Of its wide maps only the depthwise convolution's output is kept in memory; the expanded map is
// made anew, some channels of some images at a time, wherever it is wanted.
//
// That takes two facts. The expansion is linear: the mean and variance of its output follow from the mean and the
// second moments of its thin input. And a batch norm passes back a * g + b * x + c for each channel: behind the
// expansion, where x = W u, the last two terms are a small matrix times the thin input.
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

// What the forward pass leaves to the backward pass.
template <class T>
struct ResidualKept {
  float* moments;     // 1 + channels rows of channels: the input's means, then the sums of products about them
  float* statistics;  // 4 x expanded: mean and (biased) variance before each batch norm
  T* depthwise;       // images x out_height x out_width x expanded rounded up to groups, in an order of its own
};

struct ResidualGradients {
  float* expand;  // as the weights
  float* norms;   // 4 x expanded: weight and bias of the first batch norm, then of the second
  float* taps;
  float* project;
};

}  // namespace mobilenetv2
