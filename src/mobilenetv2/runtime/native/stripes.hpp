// Columns of a chain of stages: a stripe makes some columns of the last stage's output, and of the stages before it
// what these read. The rows that a chain keeps are then that much narrower.
#pragma once

#include <algorithm>
#include <vector>

#include "network.hpp"

namespace mobilenetv2 {

// The columns of a stage that a stripe works on. What an expansion reads and the stripe before has made is copied.
struct Columns {
  int copied = 0;    // first columns of the input that the stripe before made
  int kept = 0;      // last columns of the input that the next stripe reads, too
  int shortcut = 0;  // column of the input that the first output column adds
};

// The stages over one stripe, and where its columns begin in the chain's input and output.
struct Stripe {
  std::vector<Stage> stages;
  std::vector<Columns> columns;  // of each stage
  int in_column = 0, out_column = 0;

  // Stripe `index` of `step.stripes`.
  Stripe(const Step& step, int index) : stages(step.stages), columns(step.stages.size()) {
    if (step.stripes == 1) return;
    const auto edge = [&](int i) {
      return static_cast<int>(static_cast<long long>(step.out_width) * i / step.stripes);
    };
    int begin = edge(index), end = edge(index + 1);
    out_column = begin;
    for (std::size_t i = stages.size(); i-- > 0;) {
      Stage& stage = stages[i];
      const int span = (stage.kernel - 1) * stage.dilation;  // from the first column that an output reads to the last
      const auto first = [&](int x) { return x * stage.stride - stage.left; };
      const int from = std::max(first(begin), 0), to = std::min(first(end - 1) + span + 1, stage.in_width);
      columns[i].shortcut = begin - from;
      if (i > 0 && stage.expand >= 0) {
        if (index > 0) columns[i].copied = std::max(std::min(first(begin - 1) + span + 1, stage.in_width) - from, 0);
        if (index + 1 < step.stripes) columns[i].kept = std::max(to - std::max(first(end), 0), 0);
      }
      stage.out_width = end - begin;
      stage.in_width = to - from;
      stage.left = from - first(begin);
      begin = from + columns[i].copied;
      end = to;
    }
    in_column = begin;
  }

  // Whether every stage has columns to read and to make, none of them left of its input.
  bool has_columns() const {
    return std::all_of(stages.begin(), stages.end(), [](const Stage& stage) {
      return stage.in_width >= 1 && stage.out_width >= 1 && stage.left >= 0;
    });
  }
};

}  // namespace mobilenetv2
