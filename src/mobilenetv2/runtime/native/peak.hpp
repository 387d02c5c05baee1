// What one core can do at most.
#pragma once

#include "kernels.hpp"

namespace mobilenetv2 {

// Float multiply-adds a second on the calling thread's core: independent chains in registers, best of several tries.
double fma_rate(const Kernels<float>& kernels);

}  // namespace mobilenetv2
