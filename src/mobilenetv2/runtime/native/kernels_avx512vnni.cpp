#define MNV2_NAMESPACE avx512vnni
#define MNV2_TARGET_AVX512
#define MNV2_VNNI
#define MNV2_BYTE_NAME "avx512vnni"
#define MNV2_BYTE_TABLE avx512vnni_byte_kernels
#include "kernels_body.hpp"
