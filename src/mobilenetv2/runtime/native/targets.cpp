#include "targets.hpp"

#include <cstring>

#include "built_targets.hpp"  // written by CMake: MNV2_FLOAT_TARGETS and MNV2_BYTE_TARGETS
#include "cpu.hpp"

namespace mobilenetv2 {

#define MNV2_DECLARE_FLOATS(name, floats)    \
  namespace name {                           \
  extern const Kernels<float> float_kernels; \
  }
#define MNV2_DECLARE_BYTES(name, floats)           \
  namespace name {                                 \
  extern const Kernels<std::uint8_t> byte_kernels; \
  }
MNV2_FLOAT_TARGETS(MNV2_DECLARE_FLOATS)
MNV2_BYTE_TARGETS(MNV2_DECLARE_BYTES)
#if defined(MNV2_HAS_BFLOAT16)
#define MNV2_DECLARE_BFLOAT16(name, floats)        \
  namespace name {                                 \
  extern const Kernels<bfloat16> bfloat16_kernels; \
  }
MNV2_BF16_TARGETS(MNV2_DECLARE_BFLOAT16)
#endif

namespace {

#define MNV2_FLOAT_TABLE(name, floats) &name::float_kernels,
#define MNV2_BYTE_TABLE(name, floats) &name::byte_kernels,
template <class T>
std::vector<const Kernels<T>*> tables();
template <>
std::vector<const Kernels<float>*> tables<float>() {
  return {MNV2_FLOAT_TARGETS(MNV2_FLOAT_TABLE)};
}
template <>
std::vector<const Kernels<std::uint8_t>*> tables<std::uint8_t>() {
  return {MNV2_BYTE_TARGETS(MNV2_BYTE_TABLE)};
}
#if defined(MNV2_HAS_BFLOAT16)
#define MNV2_BFLOAT16_TABLE(name, floats) &name::bfloat16_kernels,
template <>
std::vector<const Kernels<bfloat16>*> tables<bfloat16>() {
  return {MNV2_BF16_TARGETS(MNV2_BFLOAT16_TABLE)};
}
#endif

}  // namespace

template <class T>
const Kernels<T>* find_kernels(const char* isa) {
  for (const Kernels<T>* const kernels : tables<T>()) {
    if (std::strcmp(isa, kernels->isa) == 0 && runs_here(isa)) return kernels;
  }
  return nullptr;
}

template <class T>
std::vector<const char*> kernel_names() {
  std::vector<const char*> names;
  for (const Kernels<T>* const kernels : tables<T>()) {
    if (runs_here(kernels->isa)) names.push_back(kernels->isa);
  }
  return names;
}

const char* float_target(const char* isa) {
#define MNV2_COMPARE(name, floats) \
  if (std::strcmp(isa, #name) == 0) return #floats;
  MNV2_BYTE_TARGETS(MNV2_COMPARE)
  return nullptr;
}

#define MNV2_INSTANTIATE(T)                                \
  template const Kernels<T>* find_kernels<T>(const char*); \
  template std::vector<const char*> kernel_names<T>();
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
