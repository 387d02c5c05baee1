// The most probable classes of a classifier's answer.
#pragma once

#include <cstddef>
#include <vector>

namespace mobilenetv2 {

struct RankedClass {
  std::size_t index;
  double probability;  // by a softmax over all classes
};

// At most `count` classes, the most probable first; of equally probable ones the one of the lower index.
std::vector<RankedClass> best_classes(const float* logits, std::size_t classes, std::size_t count);

}  // namespace mobilenetv2
