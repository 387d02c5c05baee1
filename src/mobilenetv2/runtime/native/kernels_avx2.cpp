#define MNV2_NAMESPACE avx2
#define MNV2_TARGET_AVX2
#define MNV2_NAME "avx2"
#define MNV2_TABLE avx2_kernels
#define MNV2_BYTE_NAME "avx2"
#define MNV2_BYTE_TABLE avx2_byte_kernels
#include "kernels_body.hpp"
