#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "int8_weights.hpp"
#include "kernels.hpp"

namespace nb = nanobind;
using mobilenetv2::BLOCK;
using mobilenetv2::FactorForm;
using mobilenetv2::Int8Kernel;
template <class N>
using Vector = nb::ndarray<N, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<std::int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

// A kernel (outputs, inputs, size, size) and its zero point.
Int8Kernel kernel_of(const Values& values, int zero, const std::tuple<std::size_t, std::size_t, std::size_t>& shape) {
  const auto [outputs, inputs, size] = shape;
  const bool is_unsigned = values.dtype() == nb::dtype<std::uint8_t>();
  if (!is_unsigned && values.dtype() != nb::dtype<std::int8_t>()) throw std::invalid_argument("a kernel is of bytes");
  if (values.size() == 0 || values.size() != outputs * inputs * size * size) {
    throw std::invalid_argument("a kernel of another size");
  }
  return {values.data(), is_unsigned, zero, outputs, inputs, size};
}

FactorForm factors(const Vector<const float>& scales, double input, bool in_float, double outcome, bool may_collapse,
                   const std::vector<Vector<double>>& split, const std::optional<Vector<float>>& factor) {
  mobilenetv2::Int8Factors result{};
  result.may_collapse = may_collapse;
  if (factor) {
    result.factor = factor->data();
    result.outputs = factor->size();
  } else if (split.size() == 2 && split[0].size() == split[1].size()) {
    result.fraction = split[0].data();
    result.power = split[1].data();
    result.outputs = split[0].size();
  }
  if (result.outputs < scales.size()) throw std::invalid_argument("no room for the factors");
  return mobilenetv2::int8_factors({scales.data(), scales.size(), input, in_float, outcome}, result);
}

std::tuple<int, int, double> bias(const Values& values, int zero,
                                  const std::tuple<std::size_t, std::size_t, std::size_t>& shape,
                                  const Vector<const std::int32_t>& given, const std::vector<int>& zeros,
                                  const std::optional<Vector<const float>>& factor,
                                  const Vector<std::int32_t>& result) {
  const Int8Kernel kernel = kernel_of(values, zero, shape);
  if (given.size() != kernel.outputs || result.size() < kernel.outputs || (factor && factor->size() < kernel.outputs)) {
    throw std::invalid_argument("not one number per output");
  }
  if (zeros.size() != 1 && zeros.size() != kernel.inputs) throw std::invalid_argument("not one zero point per input");
  const mobilenetv2::WeightRange range =
      mobilenetv2::int8_bias(kernel, given.data(), zeros.data(), zeros.size(), factor ? factor->data() : nullptr,
                             result.data(), result.size());
  return {range.least, range.greatest, range.largest};
}

void matrix(const Values& values, int zero, const std::tuple<std::size_t, std::size_t, std::size_t>& shape, int middle,
            std::size_t inputs, const Rows& rows) {
  const Int8Kernel kernel = kernel_of(values, zero, shape);
  const std::size_t run = (kernel.size * inputs + 3) / 4 * 4;
  if (inputs < kernel.inputs || rows.shape(0) < kernel.outputs || rows.shape(1) != kernel.size * run) {
    throw std::invalid_argument("no room for the weights");
  }
  mobilenetv2::int8_matrix(kernel, middle, rows.shape(0), inputs, rows.data());
}

void taps(const Values& values, int zero, const std::tuple<std::size_t, std::size_t, std::size_t>& shape,
          std::size_t parts, const Rows& taps) {
  const Int8Kernel kernel = kernel_of(values, zero, shape);
  const std::size_t columns = (kernel.size + 3) / 4 * 4;
  if (kernel.inputs != 1 || taps.shape(0) * BLOCK < kernel.outputs ||
      taps.shape(1) != parts * kernel.size * BLOCK * columns) {
    throw std::invalid_argument("no room for the taps");
  }
  mobilenetv2::int8_taps(kernel, parts, taps.shape(0), columns, taps.data());
}

}  // namespace

void bind_int8(nb::module_& module) {
  nb::enum_<FactorForm>(module, "FactorForm")
      .value("TOO_LARGE", FactorForm::TOO_LARGE)
      .value("PLAIN", FactorForm::PLAIN)
      .value("COLLAPSED", FactorForm::COLLAPSED);
  module.def("int8_factors", &factors, nb::arg("scales"), nb::arg("input"), nb::arg("in_float"), nb::arg("outcome"),
             nb::arg("may_collapse"), nb::arg("split").noconvert(), nb::arg("factor").noconvert() = nb::none(),
             "What turns the sums of a layer into steps of its output: `factor` gets it, or `split` the fractions and "
             "the powers of two.");
  module.def("int8_bias", &bias, nb::arg("values"), nb::arg("zero"), nb::arg("shape"), nb::arg("bias"),
             nb::arg("zeros"), nb::arg("factor") = nb::none(), nb::arg("result").noconvert(),
             "What the sums begin with; the least and the greatest weight, and the largest result before limits, in "
             "steps of the output, that any input can give.");
  module.def("int8_matrix", &matrix, nb::arg("values"), nb::arg("zero"), nb::arg("shape"), nb::arg("middle"),
             nb::arg("inputs"), nb::arg("rows").noconvert(), "A kernel less `middle` as rows of so many inputs.");
  module.def("int8_taps", &taps, nb::arg("values"), nb::arg("zero"), nb::arg("shape"), nb::arg("parts"),
             nb::arg("taps").noconvert(), "Depthwise taps in blocks of channels, each the sum of its parts.");
}
