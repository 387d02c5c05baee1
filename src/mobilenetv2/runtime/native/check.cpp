#include "check.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

constexpr int MAX_SIDE = 1 << 20;  // of rows, columns and channels: products of three fit 64 bits

// Checks one step; every failure is an std::invalid_argument.
template <class T>
class Checker {
 public:
  Checker(const Network<T>& network, const Step& step, std::size_t index, int threads)
      : network_(network), step_(step), index_(index), threads_(threads) {}

  void check() const {
    require_sides({step_.in_channels, step_.in_height, step_.in_width});
    require_sides({step_.out_channels, step_.out_height, step_.out_width});
    check_tensors();
    switch (step_.kind) {
      case StepKind::ROWS:
        return check_rows();
      case StepKind::PLANE:
        return check_plane();
      case StepKind::MATMUL:
        require(inputs() == 1 && same_size(), "a product keeps the size of its input");
        require(known(step_.matrix, network_.matrices()), "no such matrix");
        return check_matrix(network_.matrix(step_.matrix), step_.in_channels, step_.out_channels);
      case StepKind::MEAN:
        require(floats() || !is_to_float(step_.rounding.mode), "a mean over bytes gives bytes");
        require(inputs() == 1 && step_.out_height == 1 && step_.out_width == 1, "a mean is of one place");
        return require(step_.in_channels == step_.out_channels, "a mean keeps the channels");
      case StepKind::ADD:
        require(floats() && inputs() == 2 && same_size(), "a sum is of two float tensors of its own size");
        return require(step_.in_channels == step_.out_channels, "a sum keeps the channels");
      case StepKind::CONCAT:
        return check_concat();
      case StepKind::RESIZE:
        require(inputs() == 1, "a resize is of one tensor");
        return require(step_.in_channels == step_.out_channels, "a resize keeps the channels");
      case StepKind::LABELS:
        require(inputs() == 1 && step_.output <= ANSWER, "labels are an output");
        require(step_.label_bytes == 2 || (step_.label_bytes == 1 && step_.in_channels <= 256),
                "labels of 1 or 2 bytes");
        return require(step_.in_channels == step_.out_channels && step_.in_channels <= 1 << 16, "too many classes");
      case StepKind::TO_FLOAT:
        require(!floats() && inputs() == 1 && same_size(), "only bytes become floats");
        return require(step_.in_channels == step_.out_channels && step_.output <= ANSWER, "floats are an output");
    }
    require(false, "an unknown kind of step");
  }

 private:
  static constexpr bool floats() { return sizeof(T) == sizeof(float); }
  static constexpr int padded_depth(int depth) { return floats() ? depth : (depth + 3) / 4 * 4; }

  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument("step " + std::to_string(index_) + " of the plan: " + what);
  }
  void require(bool holds, const char* what) const {
    if (!holds) fail(what);
  }
  void require_sides(std::initializer_list<int> sides) const {
    for (const int side : sides) require(side >= 1 && side <= MAX_SIDE, "a size is out of range");
  }
  template <class Packed>
  static bool known(int handle, const std::vector<Packed>& packed) {
    return handle >= 0 && static_cast<std::size_t>(handle) < packed.size();
  }
  std::size_t inputs() const { return step_.inputs.size(); }
  bool same_size() const { return step_.in_height == step_.out_height && step_.in_width == step_.out_width; }

  // Inputs, output and scratch lie in the workspace and apart, but for an output in its input's place.
  void check_tensors() const {
    require(inputs() >= 1, "it reads nothing");
    require(step_.top >= 0 && step_.scratch >= 0, "a place is negative");
    const std::size_t top = static_cast<std::size_t>(step_.top);
    const auto inside = [&](std::ptrdiff_t begin, std::size_t size) {
      return begin < 0 || (static_cast<std::size_t>(begin) <= top && size <= top - static_cast<std::size_t>(begin));
    };
    check_kinds();
    const std::size_t out = step_.out_size() * (float_items() ? sizeof(float) : 1), scratch = scratch_items();
    require(step_.output != IMAGE && inside(step_.output, out), "the output lies outside of the workspace");
    require(scratch == 0 || inside(step_.scratch, scratch), "the scratch lies outside of the workspace");
    if (!floats() && step_.output <= ANSWER) {
      require(makes_floats(network_, step_) || resizes(), "bytes are not an output");
    }
    require(!float_items() || step_.output % static_cast<std::ptrdiff_t>(sizeof(float)) == 0,
            "floats lie between two of their places");
    for (std::size_t i = 0; i < inputs(); i++) {
      const std::ptrdiff_t input = step_.inputs[i];
      const std::size_t size = input_size(i);
      require(inside(input, size), "an input lies outside of the workspace");
      require(floats() || step_.reads_floats || input > ANSWER, "an output of floats is no input of bytes");
      require(!step_.reads_floats || input <= ANSWER || input % static_cast<std::ptrdiff_t>(sizeof(float)) == 0,
              "floats lie between two of their places");
      require(input != IMAGE || reads_images(), "only a convolution of padded rows reads the image");
      if (input == step_.output) {
        require(works_in_place(), "the output lies where the input does");
      } else {
        require(apart(input, size, step_.output, out), "input and output overlap");
      }
      require(scratch == 0 || apart(input, size, step_.scratch, scratch), "input and scratch overlap");
    }
    require(scratch == 0 || apart(step_.output, out, step_.scratch, scratch), "output and scratch overlap");
  }

  bool resizes() const { return step_.kind == StepKind::RESIZE || step_.kind == StepKind::LABELS; }
  // Floats in the workspace of bytes.
  bool float_items() const { return step_.output > ANSWER && makes_floats(network_, step_); }

  // What makes_floats reads of the step.
  void check_kinds() const {
    require(!step_.reads_floats || (!floats() && resizes()), "only a resize among bytes reads floats");
    const bool staged = step_.kind == StepKind::ROWS || step_.kind == StepKind::PLANE;
    require(!staged || !step_.stages.empty(), "rows are made by at least one stage");
    require(staged || step_.stages.empty(), "stages are for steps of their own");
    int last = step_.kind == StepKind::MATMUL ? step_.matrix : -1;
    if (staged) last = step_.stages.back().conv >= 0 ? step_.stages.back().conv : step_.stages.back().project;
    require(last < 0 || known(last, network_.matrices()), "no such matrix");
  }

  static bool apart(std::ptrdiff_t a, std::size_t a_size, std::ptrdiff_t b, std::size_t b_size) {
    if (a < 0 || b < 0) return a != b || a == IMAGE;
    return a + static_cast<std::ptrdiff_t>(a_size) <= b || b + static_cast<std::ptrdiff_t>(b_size) <= a;
  }
  std::size_t input_size(std::size_t i) const {
    if (step_.kind != StepKind::CONCAT) return step_.in_size() * (step_.reads_floats ? sizeof(float) : 1);
    require(i < step_.input_channels.size(), "not one number of channels per input");
    require_sides({step_.input_channels[i]});
    return step_.in_pixels() * static_cast<std::size_t>(step_.input_channels[i]);
  }
  bool reads_images() const {
    return step_.kind == StepKind::ROWS && !step_.stages.empty() && step_.stages.front().conv >= 0;
  }
  bool works_in_place() const { return step_.stages.size() == 1 && step_.stages.front().shortcut; }

  // Elements of the workspace that the step has to itself, beside each thread's.
  std::size_t scratch_items() const {
    if (step_.stages.empty()) return 0;
    const Stage& stage = step_.stages.front();
    if (step_.kind == StepKind::PLANE) {
      return static_cast<std::size_t>(stage.wide_channels) * static_cast<std::size_t>(stage.out_height) *
             static_cast<std::size_t>(stage.out_width);
    }
    if (step_.kind != StepKind::ROWS || inputs() != 1 || step_.inputs[0] != step_.output) return 0;
    return 2 * static_cast<std::size_t>(stage.dilation) * static_cast<std::size_t>(threads_ - 1) *
           static_cast<std::size_t>(stage.in_width) * static_cast<std::size_t>(stage.in_channels);
  }

  void check_concat() const {
    require(same_size(), "tensors of one size stand side by side");
    require(floats() ? step_.rescaling.empty() : step_.rescaling.size() == 256 * inputs(), "not one table per input");
    require(step_.input_channels.size() == inputs(), "not one number of channels per input");
    int channels = 0;
    for (const int each : step_.input_channels) channels += each;
    require(channels == step_.out_channels, "the inputs' channels are not the output's");
  }

  bool gives_floats(int matrix) const {
    return !floats() && matrix >= 0 && is_to_float(network_.matrix(matrix).rounding.mode);
  }

  void check_matrix(const Matrix<T>& matrix, int depth, int channels) const {
    require(matrix.depth == padded_depth(depth), "a matrix of another depth");
    require(matrix.channels == channels, "a matrix of other channels");
  }

  void check_rows() const {
    require(inputs() == 1 && !step_.stages.empty(), "rows are made of one input by at least one stage");
    const std::size_t count = step_.stages.size();
    for (std::size_t i = 0; i < count; i++) {
      const Stage& stage = step_.stages[i];
      // a depthwise convolution reads blocks: what feeds it inside a chain fills whole blocks
      const bool feeds_blocks = i + 1 < count && step_.stages[i + 1].conv < 0 && step_.stages[i + 1].expand < 0;
      check_stage(stage, feeds_blocks ? up_to_block(stage.out_channels) : stage.out_channels);
      require(i + 1 == count || !gives_floats(stage.conv >= 0 ? stage.conv : stage.project), "floats end a chain");
      require(i == 0 || stage.conv < 0, "a convolution of padded rows begins a chain");
      if (i > 0) require_equal(step_.stages[i - 1], stage);
    }
    const Stage &first = step_.stages.front(), &last = step_.stages.back();
    require(first.in_height == step_.in_height && first.in_width == step_.in_width &&
                first.in_channels == step_.in_channels && last.out_height == step_.out_height &&
                last.out_width == step_.out_width && last.out_channels == step_.out_channels,
            "the stages are of another size than the step");
  }

  void require_equal(const Stage& before, const Stage& after) const {
    require(before.out_height == after.in_height && before.out_width == after.in_width &&
                before.out_channels == after.in_channels,
            "a stage reads another size than the one before makes");
    require(!before.shortcut && !after.shortcut, "no shortcut within a chain");
  }

  void check_plane() const {
    require(inputs() == 1 && step_.stages.size() == 1, "a plane is one stage");
    const Stage& stage = step_.stages.front();
    require(stage.expand >= 0 && stage.project >= 0 && stage.conv < 0, "a plane is a whole inverted residual");
    check_stage(stage, stage.out_channels);
    require(!gives_floats(stage.project), "a plane makes what it reads");
    require(stage.in_channels == step_.in_channels && stage.in_height == step_.in_height &&
                stage.in_width == step_.in_width && stage.out_channels == step_.out_channels &&
                stage.out_height == step_.out_height && stage.out_width == step_.out_width,
            "the stage is of another size than the step");
    require(step_.chunk >= 1, "a chunk has at least one panel");
    const std::vector<Panel>& panels = network_.matrix(stage.expand).panels;
    for (std::size_t i = 0; i < panels.size(); i += static_cast<std::size_t>(step_.chunk)) {
      require(panels[i].channel % BLOCK == 0, "a chunk begins within a block");
    }
  }

  // `written`: channels that the last matrix writes.
  void check_stage(const Stage& stage, int written) const {
    require_sides({stage.in_channels, stage.in_height, stage.in_width, stage.out_channels, stage.out_height,
                   stage.out_width, stage.kernel, stage.stride, stage.dilation, stage.strip});
    require(stage.top >= 0 && stage.left >= 0 && stage.top <= MAX_SIDE && stage.left <= MAX_SIDE,
            "a padding is out of range");
    if (stage.conv >= 0) return check_convolution(stage, written);
    require(stage.kernel == 3, "depthwise kernels are 3x3");
    require(stage.wide_channels >= 1 && stage.wide_channels % BLOCK == 0, "wide channels are no whole blocks");
    require(known(stage.depthwise, network_.depthwises()), "no such depthwise weights");
    require(network_.depthwise(stage.depthwise).channels == stage.wide_channels, "depthwise weights of other channels");
    if (stage.expand >= 0) {
      require(known(stage.expand, network_.matrices()), "no such matrix");
      require(!gives_floats(stage.expand), "an expansion makes what it reads");
      check_matrix(network_.matrix(stage.expand), stage.in_channels, stage.wide_channels);
    } else {
      require(up_to_block(stage.in_channels) == stage.wide_channels, "channels that are not expanded stay as many");
    }
    if (stage.project >= 0) {
      require(known(stage.project, network_.matrices()), "no such matrix");
      check_matrix(network_.matrix(stage.project), stage.wide_channels, written);
    } else {
      require(up_to_block(stage.out_channels) == stage.wide_channels, "channels that are not projected stay as many");
    }
    require(floats() || !stage.shortcut || takes_shortcut(network_.matrix(stage.project).rounding.mode),
            "the projection's rounding has no shortcut");
    require(!stage.shortcut || (stage.project >= 0 && stage.stride == 1 && stage.in_height == stage.out_height &&
                                stage.in_width == stage.out_width && stage.in_channels == stage.out_channels),
            "a shortcut joins tensors of one shape");
    check_taps(stage);
  }

  void check_convolution(const Stage& stage, int written) const {
    require(stage.expand < 0 && stage.depthwise < 0 && stage.project < 0 && !stage.shortcut,
            "a convolution of padded rows is a stage of its own");
    require(known(stage.conv, network_.matrices()), "no such matrix");
    require(step_.inputs[0] != IMAGE || floats() || stage.dilation == 1, "a convolution of pixels is not dilated");
    const int depth = stage.kernel * padded_depth(stage.kernel * stage.in_channels);
    check_matrix(network_.matrix(stage.conv), depth, written);
    if (step_.inputs[0] != IMAGE) return;
    require(known(stage.conv_pixels, network_.matrices()), "no matrix for pixels");
    check_matrix(network_.matrix(stage.conv_pixels), depth, written);
    require(network_.padding().size() == static_cast<std::size_t>(stage.in_channels), "no padding for pixels");
  }

  // The depthwise kernels want at least one of the three rows under every output row.
  void check_taps(const Stage& stage) const {
    for (int y = 0; y < stage.out_height; y++) {
      bool inside = false;
      for (int i = 0; i < 3; i++) {
        const int row = y * stage.stride - stage.top + i * stage.dilation;
        inside = inside || (row >= 0 && row < stage.in_height);
      }
      require(inside, "an output row reads no row of the input");
    }
  }

  const Network<T>& network_;
  const Step& step_;
  std::size_t index_;
  int threads_;
};

}  // namespace

template <class T>
void check_steps(const Network<T>& network, const std::vector<Step>& steps, int threads) {
  if (threads != 1 && threads != network.threads()) throw std::invalid_argument("neither one thread nor all of them");
  for (std::size_t i = 0; i < steps.size(); i++) Checker<T>(network, steps[i], i, threads).check();
}

template void check_steps<float>(const Network<float>&, const std::vector<Step>&, int);
template void check_steps<std::uint8_t>(const Network<std::uint8_t>&, const std::vector<Step>&, int);

}  // namespace mobilenetv2
