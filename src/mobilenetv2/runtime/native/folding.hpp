// Folds a batch norm into the kernel before it, and lays the kernel out for the network.
#pragma once

#include <cstddef>

namespace mobilenetv2 {

// A layer's weights as checkpoints have them.
struct Kernel {
  const float* values;  // (outputs, inputs, size, size)
  std::size_t outputs, inputs, size;
  bool depthwise;  // of one input each
};

// What follows the kernel, one number per output: a batch norm; without `gamma` the bias `beta` alone, or nothing.
struct Norm {
  const float *gamma, *beta, *mean, *variance;
  double epsilon;
};

// Of pixels: each times `scale` plus `offset` is the kernel's input, per channel. Null: the input is that already.
struct Normalization {
  const double *scale, *offset;
};

// What the network takes, with channels that the kernel has not, which become zeros.
struct Folded {
  float* weights;  // (outputs, size, size, inputs); of a depthwise layer (size, size, outputs)
  float* bias;     // (outputs)
  std::size_t outputs, inputs;
};

// Computed in double and rounded once. Whether all numbers are within float32.
bool fold(const Kernel& kernel, const Norm& norm, const Normalization& pixels, const Folded& folded);

}  // namespace mobilenetv2
