#include "int8_weights.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels.hpp"

namespace mobilenetv2 {
namespace {

constexpr std::int64_t BIAS_LIMIT = std::int64_t{1} << 30;  // leaves the other half of 32 bits to the products
constexpr double FRACTION_UNITS = 2147483648.0;             // 2**31
constexpr int LEAST_POWER = -31;                            // a smaller factor is 0

// A factor as TensorFlow Lite stores it: 31 bits of a fraction in 0.5..1, and a power of two.
void split_factor(double factor, double& fraction, double& power) {
  int exponent;
  double fixed = std::floor(std::frexp(factor, &exponent) * FRACTION_UNITS + 0.5);
  if (fixed == FRACTION_UNITS) {
    fixed /= 2;
    exponent++;
  }
  if (exponent < LEAST_POWER) {
    fixed = 0;
    exponent = LEAST_POWER;
  }
  const int left = std::max(exponent, 0);
  fraction = std::ldexp(fixed / FRACTION_UNITS, left);
  power = std::ldexp(1.0, exponent - left);
}

// Calls with the values as what they are.
template <class F>
auto with_values(const Int8Kernel& kernel, F use) {
  return kernel.is_unsigned ? use(static_cast<const std::uint8_t*>(kernel.values))
                            : use(static_cast<const std::int8_t*>(kernel.values));
}

std::size_t up_to_four(std::size_t count) { return (count + 3) / 4 * 4; }

}  // namespace

FactorForm int8_factors(const SumScale& scale, const Int8Factors& factors) {
  const auto factor_of = [&scale](std::size_t output) {
    const double product = scale.in_float ? static_cast<double>(static_cast<float>(scale.input) * scale.scales[output])
                                          : scale.input * scale.scales[output];
    return scale.outcome != 0 ? product / scale.outcome : product;
  };
  double largest = 0;
  for (std::size_t output = 0; output < scale.outputs; output++) largest = std::max(largest, factor_of(output));
  if (!std::isfinite(largest) || (factors.factor && !std::isfinite(static_cast<float>(largest)))) {
    return FactorForm::TOO_LARGE;
  }
  const bool collapses = factors.may_collapse && largest < 1;
  for (std::size_t output = 0; output < factors.outputs; output++) {
    const double factor = output < scale.outputs ? factor_of(output) : 0;
    if (factors.factor) {
      factors.factor[output] = static_cast<float>(factor);
      continue;
    }
    double &fraction = factors.fraction[output], &power = factors.power[output];
    fraction = power = 0;
    if (output >= scale.outputs) continue;
    split_factor(factor, fraction, power);
    if (collapses) {
      fraction *= power;
      power = power < 1 ? (1 + power) / 2 : 0.5;
    }
  }
  return collapses ? FactorForm::COLLAPSED : FactorForm::PLAIN;
}

WeightRange int8_bias(const Int8Kernel& kernel, const std::int32_t* bias, const int* zeros, std::size_t zero_count,
                      const float* factor, std::int32_t* result, std::size_t filled) {
  return with_values(kernel, [&](const auto* values) {
    const std::size_t places = kernel.size * kernel.size, count = kernel.inputs * places;
    WeightRange range{values[0] - kernel.zero, values[0] - kernel.zero, 0.0};
    for (std::size_t output = 0; output < kernel.outputs; output++, values += count) {
      int total = 0, magnitude = 0, least = range.least, greatest = range.greatest;
      for (std::size_t i = 0; i < count; i++) {
        const int weight = values[i] - kernel.zero;
        least = std::min(least, weight);
        greatest = std::max(greatest, weight);
        total += weight;
        magnitude += std::abs(weight);
      }
      range.least = least;
      range.greatest = greatest;
      std::int64_t sum = bias[output];
      if (zero_count == 1) sum -= std::int64_t{zeros[0]} * total;
      for (std::size_t i = 0; zero_count > 1 && i < count; i++) sum -= zeros[i / places] * (values[i] - kernel.zero);
      sum = std::min(std::max(sum, -BIAS_LIMIT), BIAS_LIMIT);
      result[output] = static_cast<std::int32_t>(sum);
      if (factor) {
        range.largest =
            std::max(range.largest, (static_cast<double>(std::abs(sum)) + 255.0 * magnitude) * factor[output]);
      }
    }
    std::fill(result + kernel.outputs, result + filled, 0);
    return range;
  });
}

void int8_matrix(const Int8Kernel& kernel, int middle, std::size_t outputs, std::size_t inputs, std::int8_t* rows) {
  with_values(kernel, [&](const auto* values) {
    const std::size_t size = kernel.size, run = up_to_four(size * inputs);
    const int shift = kernel.zero + middle;
    for (std::size_t output = 0; output < outputs; output++) {
      for (std::size_t row = 0; row < size; row++, rows += run) {
        std::fill_n(rows, size * inputs, static_cast<std::int8_t>(-middle));
        std::fill_n(rows + size * inputs, run - size * inputs, std::int8_t{0});
        if (output >= kernel.outputs) continue;
        const auto* const from = values + (output * kernel.inputs * size + row) * size;
        if (size == 1) {  // nearly all of a network: along memory
          for (std::size_t input = 0; input < kernel.inputs; input++) {
            rows[input] = static_cast<std::int8_t>(from[input] - shift);
          }
          continue;
        }
        for (std::size_t input = 0; input < kernel.inputs; input++) {
          for (std::size_t column = 0; column < size; column++) {
            rows[column * inputs + input] = static_cast<std::int8_t>(from[input * size * size + column] - shift);
          }
        }
      }
    }
    return true;
  });
}

void int8_taps(const Int8Kernel& kernel, std::size_t parts, std::size_t blocks, std::size_t columns,
               std::int8_t* taps) {
  const std::size_t size = kernel.size;
  std::fill_n(taps, blocks * parts * size * BLOCK * columns, std::int8_t{0});
  with_values(kernel, [&](const auto* values) {
    for (std::size_t index = 0; index < kernel.outputs * size * size; index++) {
      const std::size_t column = index % size, row = index / size % size, output = index / (size * size);
      const std::size_t block = output / BLOCK, lane = output % BLOCK;
      int rest = values[index] - kernel.zero;
      for (std::size_t part = 0; part < parts; part++) {
        const int tap = std::min(std::max(rest, -128), 127);
        taps[(((block * parts + part) * size + row) * BLOCK + lane) * columns + column] = static_cast<std::int8_t>(tap);
        rest -= tap;
      }
    }
    return true;
  });
}

}  // namespace mobilenetv2
