#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "cpu.hpp"

NB_MODULE(_native, module) {
  module.def("instruction_sets", &mobilenetv2::instruction_sets,
             "Names of the instruction sets that this processor offers, widest last; [] where only scalar code runs.");
}
