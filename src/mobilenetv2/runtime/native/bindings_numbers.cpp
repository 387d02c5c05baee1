#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "finite.hpp"
#include "folding.hpp"
#include "ranking.hpp"

namespace nb = nanobind;
template <class N>
using Vector = nb::ndarray<N, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = Vector<const float>;

namespace {

bool fold(const Floats& kernel, const std::tuple<std::size_t, std::size_t, std::size_t>& shape, bool depthwise,
          const std::vector<Floats>& norm, double epsilon, const std::vector<double>& scale,
          const std::vector<double>& offset,
          const nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>& weights, const Vector<float>& bias) {
  const auto [outputs, inputs, size] = shape;
  const std::size_t places = size * size, columns = weights.shape(1);
  if (!places || kernel.size() != outputs * inputs * places || (depthwise && inputs != 1)) {
    throw std::invalid_argument("a kernel of another size");
  }
  mobilenetv2::Folded folded{weights.data(), bias.data(), bias.size(), depthwise ? inputs : columns / places};
  if (weights.shape(0) != (depthwise ? places : folded.outputs) ||
      columns != (depthwise ? folded.outputs : places * folded.inputs) || folded.outputs < outputs ||
      folded.inputs < inputs) {
    throw std::invalid_argument("no room for the weights");
  }
  for (const Floats& array : norm) {
    if (array.size() != outputs) throw std::invalid_argument("not one number per output");
  }
  if (norm.size() > 1 && norm.size() != 4) throw std::invalid_argument("a batch norm has four arrays");
  if (scale.size() != offset.size() || (!scale.empty() && scale.size() != inputs)) {
    throw std::invalid_argument("not one scale and offset per input");
  }
  mobilenetv2::Norm values{};
  if (norm.size() == 1) values.beta = norm[0].data();
  if (norm.size() == 4) values = {norm[0].data(), norm[1].data(), norm[2].data(), norm[3].data(), epsilon};
  const bool of_pixels = !scale.empty();
  return mobilenetv2::fold({kernel.data(), outputs, inputs, size, depthwise}, values,
                           {of_pixels ? scale.data() : nullptr, of_pixels ? offset.data() : nullptr}, folded);
}

}  // namespace

void bind_numbers(nb::module_& module) {
  module.def(
      "all_finite",
      [](const nb::ndarray<const float, nb::c_contig, nb::device::cpu>& values) {
        return mobilenetv2::all_finite(values.data(), values.size());
      },
      nb::arg("values"), "Whether no value is infinite or NaN.");
  module.def(
      "best_classes",
      [](const Floats& logits, std::size_t count) {
        if (logits.size() == 0) throw std::invalid_argument("no classes");
        std::vector<std::tuple<std::size_t, double>> ranked;
        for (const mobilenetv2::RankedClass& each : mobilenetv2::best_classes(logits.data(), logits.size(), count)) {
          ranked.emplace_back(each.index, each.probability);
        }
        return ranked;
      },
      nb::arg("logits"), nb::arg("count"),
      "Index and probability (softmax) of the most probable classes, the most probable first.");
  module.def(
      "fold", &fold, nb::arg("kernel"), nb::arg("shape"), nb::arg("depthwise"), nb::arg("norm"), nb::arg("epsilon"),
      nb::arg("scale"), nb::arg("offset"), nb::arg("weights").noconvert(), nb::arg("bias").noconvert(),
      "Folds a batch norm (four arrays), a bias (one) or nothing into a kernel (outputs, inputs, size, size), and "
      "with `scale` and `offset` per input channel the normalisation of pixels. `weights` (outputs, size * size * "
      "inputs), of a depthwise layer (size * size, outputs), and `bias` get the result, with zeros in channels "
      "that there are not. Whether all of it is within float32.");
}
