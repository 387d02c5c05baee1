#define MNV2_NAME "scalar"
#define MNV2_NAMESPACE scalar
#define MNV2_TABLE scalar_kernels
#define MNV2_TARGET_SCALAR
#include "kernels_body.hpp"
