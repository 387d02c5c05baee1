#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "training.hpp"

namespace nb = nanobind;
using mobilenetv2::bfloat16;
using mobilenetv2::Maps;
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
using Pictures = nb::ndarray<N, nb::ndim<4>, nb::c_contig, nb::device::cpu>;  // channels last
using Channels = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Taps = nb::ndarray<float, nb::shape<-1, 3, 3>, nb::c_contig, nb::device::cpu>;

void check(bool fits) {
  if (!fits) throw std::invalid_argument("the shapes do not fit each other");
}

template <class T>
Maps<T> maps_of(const Pictures<T>& in, const Pictures<T>& out, const Taps& weights, int stride, int top, int left) {
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
void bind(nb::class_<Training>& training) {
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
          nb::arg("bias_gradient").noconvert())
      .def(
          "depthwise",
          [](Training& self, const Pictures<T>& in, const Taps& weights, int stride, int top, int left,
             const Pictures<T>& out) {
            const Maps<T> maps = maps_of(in, out, weights, stride, top, left);
            const nb::gil_scoped_release released;
            self.depthwise(maps, static_cast<int>(in.shape(0)), weights.data(), out.data());
          },
          nb::arg("in_").noconvert(), nb::arg("weights").noconvert(), nb::arg("stride"), nb::arg("top"),
          nb::arg("left"), nb::arg("out").noconvert())
      .def(
          "depthwise_gradient",
          [](Training& self, const Pictures<T>& gradient, const Pictures<T>& in, const Taps& weights, int stride,
             int top, int left, const Pictures<T>& out, const Taps& weight_gradient) {
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

}  // namespace

NB_MODULE(_native, module) {
  nb::set_leak_warnings(false);  // PyTorch outlives the interpreter, and what it holds
  module.def("instruction_sets", [] {
    std::vector<std::string> found;
    for (const char* isa : {"scalar", "avx2", "avx512"}) {
      if (mobilenetv2::find_passes<float>(isa)) found.emplace_back(isa);
    }
    return found;
  });
  nb::class_<Training> training(module, "Training");
  training.def(nb::init<const std::string&, int>(), nb::arg("isa"), nb::arg("threads"));
  bind<float>(training);
  bind<bfloat16>(training);
}
