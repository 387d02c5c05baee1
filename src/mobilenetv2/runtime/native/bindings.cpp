#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu.hpp"
#include "execute.hpp"
#include "kernels.hpp"
#include "network.hpp"
#include "peak.hpp"
#include "targets.hpp"

namespace nb = nanobind;

void bind_images(nb::module_& module);   // bindings_images.cpp
void bind_int8(nb::module_& module);     // bindings_int8.cpp
void bind_numbers(nb::module_& module);  // bindings_numbers.cpp
void bind_program(nb::module_& module);  // bindings_program.cpp

using mobilenetv2::Factors;
using mobilenetv2::Network;
using mobilenetv2::Plan;
using mobilenetv2::Problem;
using mobilenetv2::Rounding;
using mobilenetv2::RoundingMode;
using mobilenetv2::Stage;
using mobilenetv2::Step;
using mobilenetv2::StepKind;
using mobilenetv2::Twice;
template <class N>
using Vector = nb::ndarray<const N, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class N>
using Table = nb::ndarray<const N, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Pixels = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Answer = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Seconds = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

std::vector<std::string> names(const std::vector<const char*>& list) { return {list.begin(), list.end()}; }

template <class T>
const mobilenetv2::Kernels<T>& kernels_of(const std::string& isa) {
  const mobilenetv2::Kernels<T>* const kernels = mobilenetv2::find_kernels<T>(isa.c_str());
  if (!kernels) throw std::invalid_argument("no instruction set " + isa);
  return *kernels;
}

template <class T>
double fma_rate(const std::string& isa) {
  const mobilenetv2::Kernels<T>& kernels = kernels_of<T>(isa);
  const nb::gil_scoped_release released;
  return mobilenetv2::fma_rate(kernels);
}

void raise_if_any(const Problem& problem) {
  if (!problem.what) return;
  if (problem.what == mobilenetv2::NO_MEMORY) throw std::bad_alloc();
  if (problem.step == Problem::NO_STEP) throw std::invalid_argument(problem.what);
  throw std::invalid_argument("step " + std::to_string(problem.step) + " of the plan: " + problem.what);
}

template <class T>
void run(Network<T>& network, const Plan& plan, const mobilenetv2::Images& images, std::size_t image_size,
         const std::vector<Answer>& answers, const std::optional<Seconds>& seconds) {
  const std::size_t count = static_cast<std::size_t>(images.count);
  if (count == 0 || image_size != plan.image_size * count) throw std::invalid_argument("images of another size");
  if (answers.size() != plan.answer_sizes.size()) throw std::invalid_argument("not one array per output");
  std::vector<void*> places;
  for (std::size_t i = 0; i < answers.size(); i++) {
    if (answers[i].size() != plan.answer_sizes[i] * count) throw std::invalid_argument("an output of another size");
    const int bytes = plan.answer_bytes[i];
    const nb::dlpack::dtype_code code = bytes == 4 ? nb::dlpack::dtype_code::Float : nb::dlpack::dtype_code::UInt;
    const nb::dlpack::dtype type = answers[i].dtype();
    if (type.code != static_cast<std::uint8_t>(code) || type.bits != 8 * bytes) {
      throw std::invalid_argument("an output of another type");
    }
    places.push_back(answers[i].data());
  }
  if (seconds && seconds->size() != plan.steps.size()) throw std::invalid_argument("not one number per step");
  double* const step_seconds = seconds ? seconds->data() : nullptr;
  const nb::gil_scoped_release released;
  network.run(plan, images, places.data(), step_seconds);
}

template <class N>
using Optional = std::optional<Vector<N>>;

Factors factors(const Optional<float>& factor, const Optional<double>& fraction, const Optional<double>& power) {
  return {factor ? factor->data() : nullptr, fraction ? fraction->data() : nullptr, power ? power->data() : nullptr};
}

template <class T>
nb::class_<Network<T>> bind_network(nb::module_& module, const char* name) {
  using Weights = Table<typename Network<T>::Given>;
  using Taps = Table<typename Network<T>::Tap>;
  using Biases = Vector<typename Network<T>::Sum>;
  return nb::class_<Network<T>>(module, name)
      .def(
          "__init__",
          [](Network<T>* network, const std::string& isa, int threads) {
            const mobilenetv2::Kernels<T>& kernels = kernels_of<T>(isa);
            if (threads < 1) throw std::invalid_argument("no threads");
            new (network) Network<T>(kernels, threads);
          },
          nb::arg("isa"), nb::arg("threads"))
      .def("reserve", &Network<T>::reserve, nb::arg("weights"))
      .def(
          "add_matrix",
          [](Network<T>& network, const Weights& weights, const Biases& bias, int input_factor, int tail,
             const Optional<float>& factor, const Optional<double>& fraction, const Optional<double>& power,
             const Rounding& rounding) {
            const int channels = static_cast<int>(weights.shape(0)), depth = static_cast<int>(weights.shape(1));
            Problem problem;
            const int handle = network.add_matrix(weights.data(), bias.data(), channels, depth, input_factor, tail,
                                                  factors(factor, fraction, power), rounding, problem);
            raise_if_any(problem);
            return handle;
          },
          nb::arg("weights"), nb::arg("bias"), nb::arg("input_factor") = 0, nb::arg("tail") = 0,
          nb::arg("factor") = nb::none(), nb::arg("fraction") = nb::none(), nb::arg("power") = nb::none(),
          nb::arg("rounding") = Rounding())
      .def(
          "add_depthwise",
          [](Network<T>& network, const Taps& weights, const Biases& bias, int copies, const Optional<float>& factor,
             const Optional<double>& fraction, const Optional<double>& power, const Rounding& rounding) {
            Problem problem;
            const int handle = network.add_depthwise(weights.data(), bias.data(), static_cast<int>(bias.shape(0)),
                                                     copies, factors(factor, fraction, power), rounding, problem);
            raise_if_any(problem);
            return handle;
          },
          nb::arg("weights"), nb::arg("bias"), nb::arg("copies") = 1, nb::arg("factor") = nb::none(),
          nb::arg("fraction") = nb::none(), nb::arg("power") = nb::none(), nb::arg("rounding") = Rounding())
      .def_prop_ro("panel_channels",
                   [](const Network<T>& network) { return network.kernels().lanes * network.kernels().panel_vectors; })
      .def_prop_ro("weight_bytes", &Network<T>::weight_bytes)
      .def_prop_ro("threads", &Network<T>::threads, "As many as the system gave, at most those asked for.")
      .def("set_pixel_padding", &Network<T>::set_pixel_padding)
      .def("plan",
           [](const Network<T>& network, std::vector<Step> steps, int threads) {
             Problem problem;
             std::shared_ptr<Plan> plan = network.plan(std::move(steps), threads, problem);
             raise_if_any(problem);
             return plan;
           })
      .def(
          "run_pixels",
          [](Network<T>& network, const Plan& plan, const Pixels& images, const std::vector<Answer>& answers,
             const std::optional<Seconds>& seconds) {
            run(network, plan, {images.data(), nullptr, static_cast<int>(images.shape(0))}, images.size(), answers,
                seconds);
          },
          nb::arg("plan"), nb::arg("images"), nb::arg("answers").noconvert(),
          nb::arg("seconds").noconvert() = nb::none(),
          "`seconds`: one number per step of the plan, to which its time is added.");
}

// Beside those of pixels: runs of values that are normalised already.
template <class T>
void bind_run_values(nb::class_<Network<T>> network_class) {
  network_class.def(
      "run_values",
      [](Network<T>& network, const Plan& plan, const Values& images, const std::vector<Answer>& answers,
         const std::optional<Seconds>& seconds) {
        run(network, plan, {nullptr, images.data(), static_cast<int>(images.shape(0))}, images.size(), answers,
            seconds);
      },
      nb::arg("plan"), nb::arg("images"), nb::arg("answers").noconvert(), nb::arg("seconds").noconvert() = nb::none());
}

void bind_rounding(nb::module_& module) {
  nb::enum_<RoundingMode>(module, "RoundingMode")
      .value("ONCE", RoundingMode::ONCE)
      .value("ONCE_SATURATING", RoundingMode::ONCE_SATURATING)
      .value("TWICE", RoundingMode::TWICE)
      .value("TWICE_NON_NEGATIVE", RoundingMode::TWICE_NON_NEGATIVE)
      .value("ONCE_TO_FLOAT", RoundingMode::ONCE_TO_FLOAT)
      .value("TWICE_TO_FLOAT", RoundingMode::TWICE_TO_FLOAT);
  nb::class_<Twice>(module, "Twice")
      .def(nb::init<double, double>(), nb::arg("fraction"), nb::arg("power"))
      .def_ro("fraction", &Twice::fraction)
      .def_ro("power", &Twice::power);
  nb::class_<Rounding>(module, "Rounding")
      .def(nb::init<>())
      .def_rw("mode", &Rounding::mode)
      .def_rw("zero", &Rounding::zero)
      .def_rw("input_zero", &Rounding::input_zero)
      .def_rw("low", &Rounding::low)
      .def_rw("high", &Rounding::high)
      .def_rw("product_low", &Rounding::product_low)
      .def_rw("product_high", &Rounding::product_high)
      .def_rw("product", &Rounding::product)
      .def_rw("shortcut", &Rounding::shortcut)
      .def_rw("total", &Rounding::total)
      .def_rw("shortcut_zero", &Rounding::shortcut_zero)
      .def_rw("shortcut_factor", &Rounding::shortcut_factor)
      .def_rw("float_scale", &Rounding::float_scale);
}

void bind_steps(nb::module_& module) {
  nb::class_<Stage>(module, "Stage")
      .def(nb::init<>())
      .def_rw("in_height", &Stage::in_height)
      .def_rw("in_width", &Stage::in_width)
      .def_rw("in_channels", &Stage::in_channels)
      .def_rw("wide_channels", &Stage::wide_channels)
      .def_rw("out_height", &Stage::out_height)
      .def_rw("out_width", &Stage::out_width)
      .def_rw("out_channels", &Stage::out_channels)
      .def_rw("kernel", &Stage::kernel)
      .def_rw("stride", &Stage::stride)
      .def_rw("dilation", &Stage::dilation)
      .def_rw("top", &Stage::top)
      .def_rw("left", &Stage::left)
      .def_rw("conv", &Stage::conv)
      .def_rw("conv_pixels", &Stage::conv_pixels)
      .def_rw("expand", &Stage::expand)
      .def_rw("depthwise", &Stage::depthwise)
      .def_rw("project", &Stage::project)
      .def_rw("wide_low", &Stage::wide_low)
      .def_rw("wide_high", &Stage::wide_high)
      .def_rw("low", &Stage::low)
      .def_rw("high", &Stage::high)
      .def_rw("shortcut", &Stage::shortcut)
      .def_rw("strip", &Stage::strip);
  nb::enum_<StepKind>(module, "StepKind")
      .value("ROWS", StepKind::ROWS)
      .value("PLANE", StepKind::PLANE)
      .value("MATMUL", StepKind::MATMUL)
      .value("MEAN", StepKind::MEAN)
      .value("ADD", StepKind::ADD)
      .value("CONCAT", StepKind::CONCAT)
      .value("RESIZE", StepKind::RESIZE)
      .value("LABELS", StepKind::LABELS)
      .value("TO_FLOAT", StepKind::TO_FLOAT);
  nb::class_<Step>(module, "Step")
      .def(nb::init<>())
      .def_rw("kind", &Step::kind)
      .def_rw("stages", &Step::stages)
      .def_rw("inputs", &Step::inputs)
      .def_rw("input_channels", &Step::input_channels)
      .def_rw("output", &Step::output)
      .def_rw("scratch", &Step::scratch)
      .def_rw("chunk", &Step::chunk)
      .def_rw("stripes", &Step::stripes)
      .def_rw("matrix", &Step::matrix)
      .def_rw("low", &Step::low)
      .def_rw("high", &Step::high)
      .def_rw("rounding", &Step::rounding)
      .def_rw("mean_factor", &Step::mean_factor)
      .def_rw("mean_divisor", &Step::mean_divisor)
      .def_rw("rescaling", &Step::rescaling)
      .def_rw("reads_floats", &Step::reads_floats)
      .def_rw("signed_codes", &Step::signed_codes)
      .def_rw("label_bytes", &Step::label_bytes)
      .def_rw("in_channels", &Step::in_channels)
      .def_rw("in_height", &Step::in_height)
      .def_rw("in_width", &Step::in_width)
      .def_rw("out_height", &Step::out_height)
      .def_rw("out_width", &Step::out_width)
      .def_rw("out_channels", &Step::out_channels)
      .def_rw("top", &Step::top);
  module.def("rows_scratch", &mobilenetv2::rows_scratch, nb::arg("step"), nb::arg("item_bytes"),
             "Elements that each thread needs for a step of kind ROWS.");
}

}  // namespace

NB_MODULE(_native, module) {
  module.def(
      "instruction_sets", [] { return names(mobilenetv2::instruction_sets()); },
      "Names of the instruction sets that this processor offers, widest last; [] where only scalar code runs.");
  module.def(
      "kernel_names", [] { return names(mobilenetv2::kernel_names<float>()); },
      "Instruction sets that there are kernels for and that run here, best last.");
  module.def(
      "bf16_kernel_names", [] { return names(mobilenetv2::kernel_names<mobilenetv2::bfloat16>()); },
      "The same for networks in bfloat16; there are instructions for it in all but \"scalar\".");
  module.def(
      "byte_kernel_names", [] { return names(mobilenetv2::kernel_names<std::uint8_t>()); },
      "The same for int8 networks.");
  module.def("float_target", &mobilenetv2::float_target, nb::arg("isa"),
             nb::sig("def float_target(isa: str) -> str | None"),
             "The target whose float kernels go with a target's int8 kernels; None for an unknown one.");
  module.def("byte_fma_rate", &fma_rate<std::uint8_t>, nb::arg("isa"),
             "The same of unsigned by signed bytes, summed in 32 bits.");
  bind_images(module);
  bind_int8(module);
  bind_numbers(module);
  module.def("bf16_fma_rate", &fma_rate<mobilenetv2::bfloat16>, nb::arg("isa"),
             "The same of pairs of bfloat16, summed in floats.");
  module.def("fma_rate", &fma_rate<float>, nb::arg("isa"),
             "float32 multiply-adds a second that the kernels' vectors of an instruction set reach on one core, in "
             "registers alone. \"scalar\" is what the compiler makes of plain code.");
  module.attr("BLOCK") = mobilenetv2::BLOCK;
  module.attr("IMAGE") = mobilenetv2::IMAGE;
  module.attr("ANSWER") = mobilenetv2::ANSWER;

  bind_rounding(module);
  bind_program(module);
  bind_steps(module);
  nb::class_<Plan>(module, "Plan").def("size", &Plan::size, nb::arg("images"));
  bind_run_values(bind_network<float>(module, "Network"));
  bind_run_values(bind_network<mobilenetv2::bfloat16>(module, "BF16Network"));
  bind_network<std::uint8_t>(module, "ByteNetwork");
}
