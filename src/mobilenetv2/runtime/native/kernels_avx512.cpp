#define MNV2_NAMESPACE avx512
#define MNV2_TARGET_AVX512
#define MNV2_NAME "avx512"
#define MNV2_TABLE avx512_kernels
#define MNV2_BYTE_NAME "avx512"
#define MNV2_BYTE_TABLE avx512_byte_kernels
#include "kernels_body.hpp"
