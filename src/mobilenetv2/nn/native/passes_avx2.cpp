#define MNV2_NAMESPACE avx2_training
#define MNV2_TARGET_AVX2
#define MNV2_TABLE avx2_passes
#define MNV2_BFLOAT16_TABLE avx2_bfloat16_passes
#include "passes_body.hpp"
