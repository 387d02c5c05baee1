// What one core can do at most.
#pragma once

#include "kernels.hpp"

namespace mobilenetv2 {

// Multiply-adds a second on the calling thread's core: independent chains in registers, best of several tries.
template <class T>
double fma_rate(const Kernels<T>& kernels);

}  // namespace mobilenetv2
