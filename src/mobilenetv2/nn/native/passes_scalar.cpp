#define MNV2_NAMESPACE scalar_training
#define MNV2_TABLE scalar_passes
#define MNV2_BFLOAT16_TABLE scalar_bfloat16_passes
#include "passes_body.hpp"
