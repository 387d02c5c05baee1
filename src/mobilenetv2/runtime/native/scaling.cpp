#include "scaling.hpp"

#include <cstdint>
#include <cstring>

namespace mobilenetv2 {

bool scale_rows(const float* values, const double* factors, std::size_t rows, std::size_t columns, float* results) {
  constexpr std::uint32_t NOT_FINITE = 0x7f800000;  // the exponent of infinity and NaN
  bool finite = true;
  for (std::size_t row = 0; row < rows; row++) {
    const double factor = factors[row];
    for (std::size_t i = 0; i < columns; i++) {
      results[i] = static_cast<float>(static_cast<double>(values[i]) * factor);
    }
    std::uint32_t beyond = 0;
    for (std::size_t i = 0; i < columns; i++) {
      std::uint32_t bits;
      std::memcpy(&bits, results + i, sizeof(bits));
      beyond |= (bits & NOT_FINITE) == NOT_FINITE;
    }
    finite = finite && !beyond;
    values += columns;
    results += columns;
  }
  return finite;
}

}  // namespace mobilenetv2
