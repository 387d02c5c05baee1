#include <cstring>

#include "cpu.hpp"
#include "kernels.hpp"

namespace mobilenetv2 {

const Kernels* find_kernels(const char* isa) {
  if (std::strcmp(isa, "scalar") == 0) return scalar_kernels;
#if defined(MNV2_X86)
  for (const Kernels* kernels : {avx2_kernels, avx512_kernels}) {
    if (std::strcmp(isa, kernels->isa) != 0) continue;
    for (const std::string& found : instruction_sets()) {
      if (found == isa) return kernels;
    }
  }
#endif
  return nullptr;
}

}  // namespace mobilenetv2
