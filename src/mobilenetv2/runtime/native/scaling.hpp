// What folds a batch norm into the weights before it.
#pragma once

#include <cstddef>

namespace mobilenetv2 {

// Each row of (rows, columns) times its factor, multiplied in double and rounded once. Whether all results are finite.
bool scale_rows(const float* values, const double* factors, std::size_t rows, std::size_t columns, float* results);

}  // namespace mobilenetv2
