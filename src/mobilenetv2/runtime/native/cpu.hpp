// Which instruction sets of interest this processor and its operating system offer.
#pragma once

#include <string>
#include <vector>

namespace mobilenetv2 {

// Names, widest last: on x86-64 out of "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16"; on 64-bit Arm "neon"
// and "dotprod". Empty where none applies; "scalar" is always possible and not listed.
std::vector<std::string> instruction_sets();

}  // namespace mobilenetv2
