// Which targets this build has, from targets.def.
#pragma once

#include <vector>

#include "kernels.hpp"

namespace mobilenetv2 {

// Names of the tables that find_kernels has here, best last.
template <class T>
std::vector<const char*> kernel_names();

// The target whose float kernels go with a target's int8 kernels, by name; null for an unknown one.
const char* float_target(const char* isa);

}  // namespace mobilenetv2
