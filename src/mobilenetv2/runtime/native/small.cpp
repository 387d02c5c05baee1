// What containers need of a C++ library, for programs that are linked without one: memory, and an end where there is
// none or where a container's own check fails.

#include <cstdlib>
#include <new>

#include "dialect.hpp"

MNV2_WEAK void* operator new(std::size_t size) {
  void* const memory = std::malloc(size ? size : 1);
  if (!memory) std::abort();
  return memory;
}
MNV2_WEAK void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return std::malloc(size ? size : 1); }
MNV2_WEAK void* operator new[](std::size_t size) { return operator new(size); }
MNV2_WEAK void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size ? size : 1);
}
MNV2_WEAK void operator delete(void* memory) noexcept { std::free(memory); }
MNV2_WEAK void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
MNV2_WEAK void operator delete[](void* memory) noexcept { std::free(memory); }
MNV2_WEAK void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

const std::nothrow_t std::nothrow{};

namespace std {
MNV2_WEAK void __throw_bad_alloc() { std::abort(); }
MNV2_WEAK void __throw_bad_array_new_length() { std::abort(); }
MNV2_WEAK void __throw_length_error(const char*) { std::abort(); }
}  // namespace std
