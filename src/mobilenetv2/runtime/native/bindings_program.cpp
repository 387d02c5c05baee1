#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "program.hpp"

namespace nb = nanobind;
using Pixels = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Answer = nb::ndarray<nb::c_contig, nb::device::cpu>;

namespace {

// A program behind the C interface.
struct Program {
  explicit Program(mnv2_program* program) : opened(program, mnv2_close) { check(mnv2_input(program, &input)); }
  static void check(mnv2_status status) {
    if (status == MNV2_NO_MEMORY) throw std::bad_alloc();
    if (status) throw std::invalid_argument(mnv2_error());
  }

  std::unique_ptr<mnv2_program, void (*)(mnv2_program*)> opened;
  mnv2_input_info input{};
};

std::vector<mnv2_output_info> outputs_of(const Program& program) {
  std::vector<mnv2_output_info> outputs;
  mnv2_output_info info;
  while (mnv2_output(program.opened.get(), static_cast<int>(outputs.size()), &info) == MNV2_OK) outputs.push_back(info);
  return outputs;
}

void run_program(Program& program, const Pixels& pixels, const std::vector<Answer>& answers) {
  const mnv2_input_info& input = program.input;
  const std::vector<mnv2_output_info> outputs = outputs_of(program);
  const int images = static_cast<int>(pixels.shape(0));
  if (static_cast<int>(pixels.shape(1)) != input.height || static_cast<int>(pixels.shape(2)) != input.width ||
      static_cast<int>(pixels.shape(3)) != input.channels || answers.size() != outputs.size()) {
    throw std::invalid_argument("images of another size");
  }
  {
    const nb::gil_scoped_release released;
    const mnv2_status status = mnv2_run(program.opened.get(), pixels.data(), images);
    Program::check(status);
  }
  for (std::size_t i = 0; i < outputs.size(); i++) {
    const std::size_t count =
        static_cast<std::size_t>(images) * outputs[i].height * outputs[i].width * outputs[i].channels;
    const std::size_t bytes = outputs[i].type == MNV2_FLOAT32 ? 4 : outputs[i].type == MNV2_UINT8 ? 1 : 2;
    if (answers[i].nbytes() != count * bytes) throw std::invalid_argument("an output of another size");
    std::memcpy(answers[i].data(), outputs[i].data, count * bytes);
  }
}

}  // namespace

void bind_program(nb::module_& module) {
  nb::class_<Program>(module, "Program")
      .def(
          "__init__",
          [](Program* program, const nb::bytes& content, int threads, const std::string& isa) {
            mnv2_program* opened = nullptr;
            Program::check(mobilenetv2::open_program(content.c_str(), content.size(), threads, isa.c_str(), &opened));
            new (program) Program(opened);
          },
          nb::arg("content"), nb::arg("threads"), nb::arg("isa"))
      .def_prop_ro("shape",
                   [](const Program& program) {
                     const mnv2_input_info& input = program.input;
                     return std::make_tuple(input.batch, input.height, input.width, input.channels);
                   })
      .def_prop_ro("workspace_bytes", [](const Program& program) { return program.input.workspace_bytes; })
      .def_prop_ro("info", [](const Program& program) { return mnv2_info(program.opened.get()); })
      .def_prop_ro("outputs",
                   [](const Program& program) {
                     std::vector<std::tuple<std::string, int, int, int, int>> listed;
                     for (const mnv2_output_info& each : outputs_of(program)) {
                       listed.emplace_back(each.name, each.type, each.height, each.width, each.channels);
                     }
                     return listed;
                   })
      .def("run", &run_program, nb::arg("pixels"), nb::arg("answers").noconvert());
}
