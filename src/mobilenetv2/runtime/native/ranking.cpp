#include "ranking.hpp"

#include <algorithm>
#include <cmath>

namespace mobilenetv2 {

std::vector<RankedClass> best_classes(const float* logits, std::size_t classes, std::size_t count) {
  const double highest = *std::max_element(logits, logits + classes);
  std::vector<RankedClass> ranked(classes);
  double total = 0.0;
  for (std::size_t i = 0; i < classes; i++) {
    ranked[i] = {i, std::exp(logits[i] - highest)};
    total += ranked[i].probability;
  }
  for (RankedClass& each : ranked) each.probability /= total;
  count = std::min(count, classes);
  const auto end = ranked.begin() + static_cast<std::ptrdiff_t>(count);
  std::partial_sort(ranked.begin(), end, ranked.end(), [](const RankedClass& a, const RankedClass& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.index < b.index;
  });
  ranked.resize(count);
  return ranked;
}

}  // namespace mobilenetv2
