// Only the passes on bfloat16: those on floats are passes_avx512.cpp's.
#define MNV2_NAMESPACE avx512bf16_training
#define MNV2_TARGET_AVX512
#define MNV2_TARGET_AVX512BF16
#define MNV2_BFLOAT16_TABLE avx512bf16_bfloat16_passes
#include "passes_body.hpp"
