#define MNV2_NAMESPACE avx512_training
#define MNV2_TARGET_AVX512
#define MNV2_TABLE avx512_passes
#define MNV2_BFLOAT16_TABLE avx512_bfloat16_passes
#include "passes_body.hpp"
