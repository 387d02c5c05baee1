#include <cstring>

#include "cpu.hpp"
#include "kernels.hpp"

namespace mobilenetv2 {
namespace {

template <class T>
const Kernels<T>* find_among(std::initializer_list<const Kernels<T>*> tables, const char* isa) {
  for (const Kernels<T>* kernels : tables) {
    if (std::strcmp(isa, kernels->isa) != 0) continue;
    if (std::strcmp(isa, "scalar") == 0) return kernels;
    for (const std::string& found : instruction_sets()) {
      if (found == isa) return kernels;
    }
  }
  return nullptr;
}

}  // namespace

#if defined(MNV2_X86)

template <>
const Kernels<float>* find_kernels<float>(const char* isa) {
  return find_among({&scalar_kernels, &avx2_kernels, &avx512_kernels}, isa);
}

template <>
const Kernels<std::uint8_t>* find_kernels<std::uint8_t>(const char* isa) {
  return find_among(
      {&scalar_byte_kernels, &avx2_byte_kernels, &avxvnni_byte_kernels, &avx512_byte_kernels, &avx512vnni_byte_kernels},
      isa);
}

#else

template <>
const Kernels<float>* find_kernels<float>(const char* isa) {
  return find_among({&scalar_kernels}, isa);
}

template <>
const Kernels<std::uint8_t>* find_kernels<std::uint8_t>(const char* isa) {
  return find_among({&scalar_byte_kernels}, isa);
}

#endif

}  // namespace mobilenetv2
