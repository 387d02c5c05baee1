// What a plan must keep for the executor and the kernels, which trust it.
#pragma once

#include <vector>

#include "network.hpp"

namespace mobilenetv2 {

// Throws std::invalid_argument that names the step and what is wrong with it.
template <class T>
void check_steps(const Network<T>& network, const std::vector<Step>& steps, int threads);

}  // namespace mobilenetv2
