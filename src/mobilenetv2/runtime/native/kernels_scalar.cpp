#define MNV2_NAMESPACE scalar
#define MNV2_TARGET_SCALAR
#define MNV2_NAME "scalar"
#define MNV2_TABLE scalar_kernels
#define MNV2_BYTE_NAME "scalar"
#define MNV2_BYTE_TABLE scalar_byte_kernels
#include "kernels_body.hpp"
