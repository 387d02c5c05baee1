#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "training.hpp"

namespace nb = nanobind;
using mobilenetv2::bfloat16;
using mobilenetv2::Maps;
using mobilenetv2::ResidualShape;
using mobilenetv2::ResidualWeights;
using mobilenetv2::Training;

template <>
struct nanobind::detail::dtype_traits<bfloat16> {
  static constexpr dlpack::dtype value{static_cast<std::uint8_t>(dlpack::dtype_code::Bfloat), 16, 1};
  static constexpr auto name = const_name("bfloat16");
};

namespace {

template <class N>
using Pixels = nb::ndarray<N, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // pixels x channels
template <class N>
using Images = nb::ndarray<N, nb::ndim<4>, nb::c_contig, nb::device::cpu>;  // channels last
using Channels = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Taps = nb::ndarray<float, nb::shape<-1, 3, 3>, nb::c_contig, nb::device::cpu>;

void check(bool fits) {
  if (!fits) throw std::invalid_argument("the shapes do not match");
}

template <class T>
Maps<T> maps_of(const Images<T>& in, const Images<T>& out, const Taps& weights, int stride, int top, int left) {
  check(in.shape(0) == out.shape(0) && in.shape(3) == out.shape(3) && in.shape(3) == weights.shape(0));
  check(in.shape(3) % 8 == 0 && (stride == 1 || stride == 2) && top >= 0 && top <= 1 && left >= 0 && left <= 1);
  const auto size = [](std::size_t value) { return static_cast<int>(value); };
  return {in.data(),
          size(in.shape(1)),
          size(in.shape(2)),
          size(out.shape(1)),
          size(out.shape(2)),
          size(in.shape(3)),
          stride,
          top,
          left};
}

template <class T>
ResidualShape shape_of(const Images<T>& in, const Images<T>& out, const Matrix& expand, const Matrix& norms,
                       const Taps& taps, const Matrix& project, int stride, int top, int left, const Matrix& moments,
                       const Matrix& statistics, const Pixels<T>& kept, int group) {
  const std::size_t channels = in.shape(3), expanded = taps.shape(0), out_channels = out.shape(3);
  check(in.shape(0) == out.shape(0) && in.shape(0) > 0 && channels % 8 == 0 && expanded % 8 == 0 &&
        out_channels % 8 == 0 && (stride == 1 || stride == 2) && top >= 0 && top <= 1 && left >= 0 && left <= 1);
  check(expand.shape(0) == expanded && expand.shape(1) == channels);
  check(project.shape(0) == out_channels && project.shape(1) == expanded);
  check(norms.shape(0) == 4 && norms.shape(1) == expanded);
  check(statistics.shape(0) == 4 && statistics.shape(1) == expanded);
  check(moments.shape(0) == 1 + channels && moments.shape(1) == channels);
  check(kept.shape(0) == out.shape(0) * out.shape(1) * out.shape(2) &&
        kept.shape(1) == (expanded + group - 1) / group * group);
  const auto size = [](std::size_t value) { return static_cast<int>(value); };
  return {size(in.shape(0)),
          size(in.shape(1)),
          size(in.shape(2)),
          size(out.shape(1)),
          size(out.shape(2)),
          stride,
          top,
          left,
          size(channels),
          size(expanded),
          size(out_channels)};
}

ResidualWeights weights_of(const Matrix& expand, const Matrix& norms, const Taps& taps, const Matrix& project,
                           float expand_epsilon, float depthwise_epsilon) {
  const float* const row = norms.data();
  const std::size_t size = norms.shape(1);
  return {expand.data(),
          {row, row + size, expand_epsilon},
          taps.data(),
          {row + 2 * size, row + 3 * size, depthwise_epsilon},
          project.data()};
}

template <class T>
void bind_norm(nb::class_<Training>& training) {
  training
      .def(
          "norm",
          [](Training& self, const Pixels<T>& in, const Channels& weight, const Channels& bias, float epsilon,
             bool relu6, const Channels& mean, const Channels& variance, const Pixels<T>& out) {
            const std::size_t pixels = in.shape(0), channels = in.shape(1);
            check(channels % 8 == 0 && pixels > 0 && out.shape(0) == pixels && out.shape(1) == channels);
            for (const Channels* each : {&weight, &bias, &mean, &variance}) check(each->shape(0) == channels);
            const nb::gil_scoped_release released;
            self.norm(in.data(), pixels, static_cast<int>(channels), weight.data(), bias.data(), epsilon, relu6,
                      mean.data(), variance.data(), out.data());
          },
          nb::arg("in_").noconvert(), nb::arg("weight").noconvert(), nb::arg("bias").noconvert(), nb::arg("epsilon"),
          nb::arg("relu6"), nb::arg("mean").noconvert(), nb::arg("variance").noconvert(), nb::arg("out").noconvert())
      .def(
          "norm_gradient",
          [](Training& self, const Pixels<T>& gradient, const Pixels<T>& in, const Channels& weight,
             const Channels& bias, float epsilon, bool relu6, const Channels& mean, const Channels& variance,
             const Pixels<T>& out, const Channels& weight_gradient, const Channels& bias_gradient) {
            const std::size_t pixels = in.shape(0), channels = in.shape(1);
            check(channels % 8 == 0 && pixels > 0);
            for (const Pixels<T>* each : {&gradient, &out}) {
              check(each->shape(0) == pixels && each->shape(1) == channels);
            }
            for (const Channels* each : {&weight, &bias, &mean, &variance, &weight_gradient, &bias_gradient}) {
              check(each->shape(0) == channels);
            }
            const nb::gil_scoped_release released;
            self.norm_gradient(gradient.data(), in.data(), pixels, static_cast<int>(channels), weight.data(),
                               bias.data(), epsilon, relu6, mean.data(), variance.data(), out.data(),
                               weight_gradient.data(), bias_gradient.data());
          },
          nb::arg("gradient").noconvert(), nb::arg("in_").noconvert(), nb::arg("weight").noconvert(),
          nb::arg("bias").noconvert(), nb::arg("epsilon"), nb::arg("relu6"), nb::arg("mean").noconvert(),
          nb::arg("variance").noconvert(), nb::arg("out").noconvert(), nb::arg("weight_gradient").noconvert(),
          nb::arg("bias_gradient").noconvert());
}

template <class T>
void bind_depthwise(nb::class_<Training>& training) {
  training
      .def(
          "depthwise",
          [](Training& self, const Images<T>& in, const Taps& weights, int stride, int top, int left,
             const Images<T>& out) {
            const Maps<T> maps = maps_of(in, out, weights, stride, top, left);
            const nb::gil_scoped_release released;
            self.depthwise(maps, static_cast<int>(in.shape(0)), weights.data(), out.data());
          },
          nb::arg("in_").noconvert(), nb::arg("weights").noconvert(), nb::arg("stride"), nb::arg("top"),
          nb::arg("left"), nb::arg("out").noconvert())
      .def(
          "depthwise_gradient",
          [](Training& self, const Images<T>& gradient, const Images<T>& in, const Taps& weights, int stride, int top,
             int left, const Images<T>& out, const Taps& weight_gradient) {
            const Maps<T> maps = maps_of(in, gradient, weights, stride, top, left);
            check(weight_gradient.shape(0) == weights.shape(0));
            for (int i = 0; i < 4; i++) check(out.shape(i) == in.shape(i));
            const nb::gil_scoped_release released;
            self.depthwise_gradient(maps, static_cast<int>(in.shape(0)), gradient.data(), weights.data(), out.data(),
                                    weight_gradient.data());
          },
          nb::arg("gradient").noconvert(), nb::arg("in_").noconvert(), nb::arg("weights").noconvert(),
          nb::arg("stride"), nb::arg("top"), nb::arg("left"), nb::arg("out").noconvert(),
          nb::arg("weight_gradient").noconvert());
}

template <class T>
void bind_residual(nb::class_<Training>& training) {
  training
      .def(
          "residual",
          [](Training& self, const Images<T>& in, const Matrix& expand, const Matrix& norms, const Taps& taps,
             const Matrix& project, float expand_epsilon, float depthwise_epsilon, int stride, int top, int left,
             const Matrix& moments, const Matrix& statistics, const Pixels<T>& kept, const Images<T>& out) {
            const ResidualShape shape = shape_of(in, out, expand, norms, taps, project, stride, top, left, moments,
                                                 statistics, kept, self.group());
            const nb::gil_scoped_release released;
            self.residual<T>(shape, weights_of(expand, norms, taps, project, expand_epsilon, depthwise_epsilon),
                             in.data(), {moments.data(), statistics.data(), kept.data()}, out.data());
          },
          nb::arg("in_").noconvert(), nb::arg("expand").noconvert(), nb::arg("norms").noconvert(),
          nb::arg("taps").noconvert(), nb::arg("project").noconvert(), nb::arg("expand_epsilon"),
          nb::arg("depthwise_epsilon"), nb::arg("stride"), nb::arg("top"), nb::arg("left"),
          nb::arg("moments").noconvert(), nb::arg("statistics").noconvert(), nb::arg("kept").noconvert(),
          nb::arg("out").noconvert())
      .def(
          "residual_gradient",
          [](Training& self, const Images<T>& gradient, const Images<T>& in, const Matrix& expand, const Matrix& norms,
             const Taps& taps, const Matrix& project, float expand_epsilon, float depthwise_epsilon, int stride,
             int top, int left, const Matrix& moments, const Matrix& statistics, const Pixels<T>& kept,
             const Images<T>& out, const Matrix& for_expand, const Matrix& for_norms, const Taps& for_taps,
             const Matrix& for_project) {
            const ResidualShape shape = shape_of(in, gradient, expand, norms, taps, project, stride, top, left, moments,
                                                 statistics, kept, self.group());
            for (int i = 0; i < 4; i++) check(out.shape(i) == in.shape(i));
            for (int i = 0; i < 2; i++) {
              check(for_expand.shape(i) == expand.shape(i) && for_norms.shape(i) == norms.shape(i) &&
                    for_project.shape(i) == project.shape(i));
            }
            check(for_taps.shape(0) == taps.shape(0));
            const nb::gil_scoped_release released;
            self.residual_gradient<T>(
                shape, weights_of(expand, norms, taps, project, expand_epsilon, depthwise_epsilon), in.data(),
                {moments.data(), statistics.data(), kept.data()}, gradient.data(), out.data(),
                {for_expand.data(), for_norms.data(), for_taps.data(), for_project.data()});
          },
          nb::arg("gradient").noconvert(), nb::arg("in_").noconvert(), nb::arg("expand").noconvert(),
          nb::arg("norms").noconvert(), nb::arg("taps").noconvert(), nb::arg("project").noconvert(),
          nb::arg("expand_epsilon"), nb::arg("depthwise_epsilon"), nb::arg("stride"), nb::arg("top"), nb::arg("left"),
          nb::arg("moments").noconvert(), nb::arg("statistics").noconvert(), nb::arg("kept").noconvert(),
          nb::arg("out").noconvert(), nb::arg("for_expand").noconvert(), nb::arg("for_norms").noconvert(),
          nb::arg("for_taps").noconvert(), nb::arg("for_project").noconvert());
}

template <class T>
void bind(nb::class_<Training>& training) {
  bind_norm<T>(training);
  bind_depthwise<T>(training);
  bind_residual<T>(training);
}

}  // namespace

NB_MODULE(_native, module) {
  nb::set_leak_warnings(false);  // PyTorch and the objects it holds outlive the interpreter
  module.def("instruction_sets", [] {
    std::vector<std::string> sets;
    for (const char* isa : {"scalar", "avx2", "avx512", "avx512bf16"}) {
      if (mobilenetv2::find_passes<float>(isa)) sets.emplace_back(isa);
    }
    return sets;
  });
  nb::class_<Training> training(module, "Training");
  training.def(nb::init<const std::string&, int>(), nb::arg("isa"), nb::arg("threads"));
  training.def_prop_ro("group", &Training::group);
  bind<float>(training);
  bind<bfloat16>(training);
}
