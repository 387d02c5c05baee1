// Lays out the weights of an int8 layer for the network, and works out what rounds their sums.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mobilenetv2 {

// A layer's weights as checkpoints have them: (outputs, inputs, size, size) signed bytes, or unsigned ones with a zero
// point.
struct Int8Kernel {
  const void* values;
  bool is_unsigned;
  int zero;
  std::size_t outputs, inputs, size;
};

// What 1 in the sum of each output stands for, in steps of the stored output or as a number.
struct SumScale {
  const float* scales;  // of the weights
  std::size_t outputs;
  double input;
  bool in_float;   // input * scale is rounded to float32, as TensorFlow Lite does it
  double outcome;  // divides it; 0: it is a number already
};

// One factor per output, in one of two forms; zeros in outputs that there are not.
struct Int8Factors {
  float* factor;  // rounded once; null: a fraction of 31 bits and a power of two
  double *fraction, *power;
  std::size_t outputs;
  bool may_collapse;  // both roundings into one, where all factors are below 1; see RoundingMode
};

enum class FactorForm { TOO_LARGE, PLAIN, COLLAPSED };

// TOO_LARGE for float32, which a damaged file may be.
FactorForm int8_factors(const SumScale& scale, const Int8Factors& factors);

struct WeightRange {
  int least, greatest;  // of the weights
  double largest;       // result that any input can give, in steps of the output; 0 without factors
};

// What the sums begin with: the bias less the weights times what stands for 0 in the input, one number or one per input
// channel; far beyond every code it is limited. `filled` outputs, of which those that there are not get 0.
WeightRange int8_bias(const Int8Kernel& kernel, const std::int32_t* bias, const int* zeros, std::size_t zero_count,
                      const float* factor, std::int32_t* result, std::size_t filled);

// The rows of a matrix: of each kernel row its pixels, of `inputs` channels each, as one run of a multiple of 4, filled
// with zeros. All weights are less `middle`. `outputs` rows.
void int8_matrix(const Int8Kernel& kernel, int middle, std::size_t outputs, std::size_t inputs, std::int8_t* rows);

// Depthwise taps (blocks, parts, size, BLOCK, columns): `columns` is a multiple of 4 with zeros behind the taps. A
// weight is the sum of its parts, each the most of it that a signed byte holds.
void int8_taps(const Int8Kernel& kernel, std::size_t parts, std::size_t blocks, std::size_t columns, std::int8_t* taps);

}  // namespace mobilenetv2
