// Whether numbers are neither infinite nor NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mobilenetv2 {

inline bool all_finite(const float* values, std::size_t count) {
  constexpr std::uint32_t NOT_FINITE = 0x7f800000;  // the exponent of infinity and NaN
  std::uint32_t beyond = 0;
  for (std::size_t i = 0; i < count; i++) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    beyond |= (bits & NOT_FINITE) == NOT_FINITE;
  }
  return !beyond;
}

}  // namespace mobilenetv2
