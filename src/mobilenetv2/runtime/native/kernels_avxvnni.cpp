#define MNV2_NAMESPACE avxvnni
#define MNV2_TARGET_AVX2
#define MNV2_VNNI
#define MNV2_BYTE_NAME "avxvnni"
#define MNV2_BYTE_TABLE avxvnni_byte_kernels
#include "kernels_body.hpp"
