// What a plan must keep for the executor and the kernels, which trust it.
#pragma once

#include <vector>

#include "network.hpp"

namespace mobilenetv2 {

template <class T>
Problem check_steps(const Network<T>& network, const std::vector<Step>& steps, int threads);

}  // namespace mobilenetv2
