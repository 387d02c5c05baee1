#include "check.hpp"

#include <algorithm>
#include <cmath>

#include "execute.hpp"
#include "stripes.hpp"

namespace mobilenetv2 {
namespace {

constexpr int MAX_SIDE = 1 << 20;  // of rows, columns and channels: products of three fit 64 bits

// Leaves a function that says what is wrong, or null; the second passes on what another one says.
#define MNV2_REQUIRE(holds, what) \
  do {                            \
    if (!(holds)) return what;    \
  } while (false)
#define MNV2_PASS(...)                                     \
  do {                                                     \
    if (const char* const what = __VA_ARGS__) return what; \
  } while (false)

// Checks one step: what is wrong with it, or null.
template <class T>
class Checker {
 public:
  Checker(const Network<T>& network, const Step& step, int threads)
      : network_(network), step_(step), threads_(threads) {}

  const char* check() const {
    MNV2_PASS(check_sides({step_.in_channels, step_.in_height, step_.in_width}));
    MNV2_PASS(check_sides({step_.out_channels, step_.out_height, step_.out_width}));
    MNV2_PASS(check_tensors());
    switch (step_.kind) {
      case StepKind::ROWS:
        return check_rows();
      case StepKind::PLANE:
        return check_plane();
      case StepKind::MATMUL:
        MNV2_REQUIRE(inputs() == 1 && same_size(), "a product keeps the size of its input");
        MNV2_REQUIRE(known(step_.matrix, network_.matrices()), "no such matrix");
        MNV2_PASS(check_limit(step_.low));
        return check_matrix(network_.matrix(step_.matrix), step_.in_channels, step_.out_channels);
      case StepKind::MEAN:
        MNV2_PASS(check_bytes());
        MNV2_REQUIRE(floats() || !is_to_float(step_.rounding.mode), "a mean over bytes gives bytes");
        MNV2_REQUIRE(inputs() == 1 && step_.out_height == 1 && step_.out_width == 1, "a mean is of one place");
        MNV2_REQUIRE(step_.in_channels == step_.out_channels, "a mean keeps the channels");
        return nullptr;
      case StepKind::ADD:
        MNV2_REQUIRE(!bytes() && inputs() == 2 && same_size(), "a sum is of two float tensors of its own size");
        MNV2_REQUIRE(step_.in_channels == step_.out_channels, "a sum keeps the channels");
        return nullptr;
      case StepKind::CONCAT:  // among the tensors
        return nullptr;
      case StepKind::RESIZE:
        MNV2_PASS(check_bytes());
        MNV2_REQUIRE(inputs() == 1, "a resize is of one tensor");
        MNV2_REQUIRE(step_.in_channels == step_.out_channels, "a resize keeps the channels");
        return nullptr;
      case StepKind::LABELS:
        MNV2_REQUIRE(inputs() == 1 && step_.output <= ANSWER, "labels are an output");
        MNV2_REQUIRE(step_.label_bytes == 2 || (step_.label_bytes == 1 && step_.in_channels <= 256),
                     "labels of 1 or 2 bytes");
        MNV2_REQUIRE(step_.in_channels == step_.out_channels && step_.in_channels <= 1 << 16, "too many classes");
        return nullptr;
      case StepKind::TO_FLOAT:
        MNV2_PASS(check_bytes());
        MNV2_REQUIRE(!floats() && inputs() == 1 && same_size(), "floats are floats already");
        MNV2_REQUIRE(step_.in_channels == step_.out_channels && step_.output <= ANSWER, "floats are an output");
        return nullptr;
    }
    return "an unknown kind of step";
  }

 private:
  static constexpr bool floats() { return sizeof(T) == sizeof(float); }
  static constexpr bool bytes() { return sizeof(T) == 1; }
  static constexpr std::size_t FLOAT_ITEMS = sizeof(float) / sizeof(T);
  static constexpr int padded_depth(int depth) {
    constexpr int TOGETHER = Types<T>::TOGETHER;
    return (depth + TOGETHER - 1) / TOGETHER * TOGETHER;
  }

  // The rounding of a step without weights.
  const char* check_bytes() const {
    if (!bytes()) return nullptr;
    const bool divides = step_.mean_divisor >= 1 && step_.mean_divisor <= 0x1p80;
    MNV2_REQUIRE(divides && std::fabs(step_.mean_factor) <= 1e19, "a factor is out of range");
    return check_rounding(step_.rounding);
  }
  static const char* check_sides(std::initializer_list<int> sides) {
    for (const int side : sides) MNV2_REQUIRE(side >= 1 && side <= MAX_SIDE, "a size is out of range");
    return nullptr;
  }
  // What the kernels over bfloat16 can clamp at.
  static const char* check_limit(float low) {
    MNV2_REQUIRE(floats() || bytes() || low == 0 || low == -INFINITY, "a lower limit is neither 0 nor none");
    return nullptr;
  }
  template <class Packed>
  static bool known(int handle, const std::vector<Packed>& packed) {
    return handle >= 0 && static_cast<std::size_t>(handle) < packed.size();
  }
  std::size_t inputs() const { return step_.inputs.size(); }
  bool same_size() const { return step_.in_height == step_.out_height && step_.in_width == step_.out_width; }

  // Inputs, output and scratch lie in the workspace and apart, but for an output in its input's place.
  const char* check_tensors() const {
    MNV2_REQUIRE(inputs() >= 1, "it reads nothing");
    MNV2_REQUIRE(step_.top >= 0 && step_.scratch >= 0, "a place is negative");
    if (step_.kind == StepKind::CONCAT) MNV2_PASS(check_concat());
    const std::size_t top = static_cast<std::size_t>(step_.top);
    const auto inside = [&](std::ptrdiff_t begin, std::size_t size) {
      return begin < 0 || (static_cast<std::size_t>(begin) <= top && size <= top - static_cast<std::size_t>(begin));
    };
    MNV2_PASS(check_kinds());
    const std::size_t out = step_.out_size() * (float_items() ? FLOAT_ITEMS : 1), scratch = scratch_items();
    MNV2_REQUIRE(step_.output != IMAGE && inside(step_.output, out), "the output lies outside of the workspace");
    MNV2_REQUIRE(scratch == 0 || inside(step_.scratch, scratch), "the scratch lies outside of the workspace");
    if (!floats() && step_.output <= ANSWER) {
      MNV2_REQUIRE(makes_floats(network_, step_) || resizes(), "what is stored is not an output");
    }
    MNV2_REQUIRE(!float_items() || step_.output % static_cast<std::ptrdiff_t>(FLOAT_ITEMS) == 0,
                 "floats lie between two of their places");
    for (std::size_t i = 0; i < inputs(); i++) {
      const std::ptrdiff_t input = step_.inputs[i];
      const std::size_t size = input_size(i);
      MNV2_REQUIRE(inside(input, size), "an input lies outside of the workspace");
      MNV2_REQUIRE(floats() || step_.reads_floats || input > ANSWER, "an output of floats is no input of other types");
      MNV2_REQUIRE(!step_.reads_floats || input <= ANSWER || input % static_cast<std::ptrdiff_t>(FLOAT_ITEMS) == 0,
                   "floats lie between two of their places");
      MNV2_REQUIRE(input != IMAGE || reads_images(), "only a convolution of padded rows reads the image");
      if (input == step_.output) {
        MNV2_REQUIRE(works_in_place(), "the output lies where the input does");
        MNV2_REQUIRE(step_.stages.front().top == step_.stages.front().dilation,
                     "in place, as many rows lie above as below");
      } else {
        MNV2_REQUIRE(apart(input, size, step_.output, out), "input and output overlap");
      }
      MNV2_REQUIRE(scratch == 0 || apart(input, size, step_.scratch, scratch), "input and scratch overlap");
    }
    MNV2_REQUIRE(scratch == 0 || apart(step_.output, out, step_.scratch, scratch), "output and scratch overlap");
    return nullptr;
  }

  bool resizes() const { return step_.kind == StepKind::RESIZE || step_.kind == StepKind::LABELS; }
  // Floats in the workspace of bytes.
  bool float_items() const { return step_.output > ANSWER && makes_floats(network_, step_); }

  // What makes_floats reads of the step.
  const char* check_kinds() const {
    MNV2_REQUIRE(!step_.reads_floats || (!floats() && resizes()), "only a resize reads floats among others");
    const bool staged = step_.kind == StepKind::ROWS || step_.kind == StepKind::PLANE;
    MNV2_REQUIRE(!staged || !step_.stages.empty(), "rows are made by at least one stage");
    MNV2_REQUIRE(staged || step_.stages.empty(), "stages are for steps of their own");
    int last = step_.kind == StepKind::MATMUL ? step_.matrix : -1;
    if (staged) last = step_.stages.back().conv >= 0 ? step_.stages.back().conv : step_.stages.back().project;
    MNV2_REQUIRE(last < 0 || known(last, network_.matrices()), "no such matrix");
    return nullptr;
  }

  static bool apart(std::ptrdiff_t a, std::size_t a_size, std::ptrdiff_t b, std::size_t b_size) {
    if (a < 0 || b < 0) return a != b || a == IMAGE;
    return a + static_cast<std::ptrdiff_t>(a_size) <= b || b + static_cast<std::ptrdiff_t>(b_size) <= a;
  }
  std::size_t input_size(std::size_t i) const {
    if (step_.kind != StepKind::CONCAT) return step_.in_size() * (step_.reads_floats ? FLOAT_ITEMS : 1);
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

  const char* check_concat() const {
    MNV2_REQUIRE(same_size(), "tensors of one size stand side by side");
    MNV2_REQUIRE(bytes() ? step_.rescaling.size() == 256 * inputs() : step_.rescaling.empty(),
                 "not one table per input");
    MNV2_REQUIRE(step_.input_channels.size() == inputs(), "not one number of channels per input");
    std::ptrdiff_t channels = 0;
    for (const int each : step_.input_channels) {
      MNV2_PASS(check_sides({each}));
      channels += each;
    }
    MNV2_REQUIRE(channels == step_.out_channels, "the inputs' channels are not the output's");
    return nullptr;
  }

  bool gives_floats(int matrix) const {
    return !floats() && matrix >= 0 && is_to_float(network_.matrix(matrix).rounding.mode);
  }

  const char* check_matrix(const Matrix<T>& matrix, int depth, int channels) const {
    MNV2_REQUIRE(matrix.depth == padded_depth(depth), "a matrix of another depth");
    MNV2_REQUIRE(matrix.channels == channels, "a matrix of other channels");
    return nullptr;
  }

  const char* check_rows() const {
    MNV2_REQUIRE(inputs() == 1 && !step_.stages.empty(), "rows are made of one input by at least one stage");
    const std::size_t count = step_.stages.size();
    for (std::size_t i = 0; i < count; i++) {
      const Stage& stage = step_.stages[i];
      // a depthwise convolution reads blocks: what feeds it inside a chain fills whole blocks
      const bool feeds_blocks = i + 1 < count && step_.stages[i + 1].conv < 0 && step_.stages[i + 1].expand < 0;
      MNV2_PASS(check_stage(stage, feeds_blocks ? up_to_block(stage.out_channels) : stage.out_channels));
      MNV2_REQUIRE(i + 1 == count || !gives_floats(stage.conv >= 0 ? stage.conv : stage.project), "floats end a chain");
      MNV2_REQUIRE(i == 0 || stage.conv < 0, "a convolution of padded rows begins a chain");
      if (i > 0) MNV2_PASS(check_equal(step_.stages[i - 1], stage));
    }
    const Stage &first = step_.stages.front(), &last = step_.stages.back();
    MNV2_REQUIRE(first.in_height == step_.in_height && first.in_width == step_.in_width &&
                     first.in_channels == step_.in_channels && last.out_height == step_.out_height &&
                     last.out_width == step_.out_width && last.out_channels == step_.out_channels,
                 "the stages are of another size than the step");
    return check_stripes();
  }

  const char* check_equal(const Stage& before, const Stage& after) const {
    MNV2_REQUIRE(before.out_height == after.in_height && before.out_width == after.in_width &&
                     before.out_channels == after.in_channels,
                 "a stage reads another size than the one before makes");
    MNV2_REQUIRE(!before.shortcut || &before != &step_.stages.front(), "no shortcut begins a chain");
    MNV2_REQUIRE(!after.shortcut || after.expand >= 0, "within a chain, a shortcut is around an expansion");
    MNV2_REQUIRE(!after.shortcut || std::max(after.top, after.left) <= 2 * after.dilation,
                 "a shortcut adds what the stage does not read");
    return nullptr;
  }

  const char* check_stripes() const {
    const Stage& first = step_.stages.front();
    MNV2_REQUIRE(step_.stripes >= 1 && step_.stripes <= step_.out_width, "there are too many or no stripes");
    if (step_.stripes == 1) return nullptr;
    MNV2_REQUIRE(first.conv >= 0 && (!bytes() || first.dilation == 1), "stripes begin with a convolution of pixels");
    for (const Stage& stage : step_.stages) {
      MNV2_REQUIRE(stage.conv >= 0 || stage.project >= 0, "stripes are made by products");
    }
    for (int i = 0; i < step_.stripes; i++) MNV2_REQUIRE(Stripe(step_, i).has_columns(), "a stripe is too narrow");
    return nullptr;
  }

  const char* check_plane() const {
    MNV2_REQUIRE(inputs() == 1 && step_.stages.size() == 1, "a plane is one stage");
    const Stage& stage = step_.stages.front();
    MNV2_REQUIRE(stage.expand >= 0 && stage.project >= 0 && stage.conv < 0, "a plane is a whole inverted residual");
    MNV2_PASS(check_stage(stage, stage.out_channels));
    MNV2_REQUIRE(!gives_floats(stage.project), "a plane makes what it reads");
    MNV2_REQUIRE(stage.in_channels == step_.in_channels && stage.in_height == step_.in_height &&
                     stage.in_width == step_.in_width && stage.out_channels == step_.out_channels &&
                     stage.out_height == step_.out_height && stage.out_width == step_.out_width,
                 "the stage is of another size than the step");
    MNV2_REQUIRE(step_.chunk >= 1, "a chunk has at least one panel");
    const std::vector<Panel>& panels = network_.matrix(stage.expand).panels;
    for (std::size_t i = 0; i < panels.size(); i += static_cast<std::size_t>(step_.chunk)) {
      MNV2_REQUIRE(panels[i].channel % BLOCK == 0, "a chunk begins within a block");
    }
    return nullptr;
  }

  // `written`: channels that the last matrix writes.
  const char* check_stage(const Stage& stage, int written) const {
    MNV2_PASS(check_limit(stage.wide_low));
    MNV2_PASS(check_limit(stage.low));
    MNV2_PASS(check_sides({stage.in_channels, stage.in_height, stage.in_width, stage.out_channels, stage.out_height,
                           stage.out_width, stage.kernel, stage.stride, stage.dilation, stage.strip}));
    MNV2_REQUIRE(stage.top >= 0 && stage.left >= 0 && stage.top <= MAX_SIDE && stage.left <= MAX_SIDE,
                 "a padding is out of range");
    if (stage.conv >= 0) return check_convolution(stage, written);
    MNV2_REQUIRE(stage.kernel == 3, "depthwise kernels are 3x3");
    MNV2_REQUIRE(stage.wide_channels >= 1 && stage.wide_channels % BLOCK == 0, "wide channels are no whole blocks");
    MNV2_REQUIRE(known(stage.depthwise, network_.depthwises()), "no such depthwise weights");
    MNV2_REQUIRE(network_.depthwise(stage.depthwise).channels == stage.wide_channels,
                 "depthwise weights of other channels");
    if (stage.expand >= 0) {
      MNV2_REQUIRE(known(stage.expand, network_.matrices()), "no such matrix");
      MNV2_REQUIRE(!gives_floats(stage.expand), "an expansion makes what it reads");
      MNV2_PASS(check_matrix(network_.matrix(stage.expand), stage.in_channels, stage.wide_channels));
    } else {
      MNV2_REQUIRE(up_to_block(stage.in_channels) == stage.wide_channels,
                   "channels that are not expanded stay as many");
    }
    if (stage.project >= 0) {
      MNV2_REQUIRE(known(stage.project, network_.matrices()), "no such matrix");
      MNV2_PASS(check_matrix(network_.matrix(stage.project), stage.wide_channels, written));
    } else {
      MNV2_REQUIRE(up_to_block(stage.out_channels) == stage.wide_channels,
                   "channels that are not projected stay as many");
    }
    MNV2_REQUIRE(!stage.shortcut || (stage.project >= 0 && stage.stride == 1 && stage.in_height == stage.out_height &&
                                     stage.in_width == stage.out_width && stage.in_channels == stage.out_channels),
                 "a shortcut joins tensors of one shape");
    MNV2_REQUIRE(floats() || !stage.shortcut || takes_shortcut(network_.matrix(stage.project).rounding.mode),
                 "the projection's rounding has no shortcut");
    return check_taps(stage);
  }

  const char* check_convolution(const Stage& stage, int written) const {
    MNV2_REQUIRE(stage.expand < 0 && stage.depthwise < 0 && stage.project < 0 && !stage.shortcut,
                 "a convolution of padded rows is a stage of its own");
    MNV2_REQUIRE(known(stage.conv, network_.matrices()), "no such matrix");
    MNV2_REQUIRE(step_.inputs[0] != IMAGE || !bytes() || stage.dilation == 1, "a convolution of pixels is not dilated");
    const int run = bytes() || stage.dilation == 1 ? stage.kernel : 1;  // inputs that lie side by side
    const int depth = stage.kernel * stage.kernel / run * padded_depth(run * stage.in_channels);
    MNV2_PASS(check_matrix(network_.matrix(stage.conv), depth, written));
    if (step_.inputs[0] != IMAGE) return nullptr;
    MNV2_REQUIRE(known(stage.conv_pixels, network_.matrices()), "no matrix for pixels");
    MNV2_PASS(check_matrix(network_.matrix(stage.conv_pixels), depth, written));
    MNV2_REQUIRE(network_.padding().size() == static_cast<std::size_t>(stage.in_channels), "no padding for pixels");
    return nullptr;
  }

  // The depthwise kernels want at least one of the three rows under every output row.
  const char* check_taps(const Stage& stage) const {
    for (int y = 0; y < stage.out_height; y++) {
      bool inside = false;
      for (int i = 0; i < 3; i++) {
        const std::int64_t row = std::int64_t{y} * stage.stride - stage.top + i * stage.dilation;
        inside = inside || (row >= 0 && row < stage.in_height);
      }
      MNV2_REQUIRE(inside, "an output row reads no row of the input");
    }
    return nullptr;
  }

  const Network<T>& network_;
  const Step& step_;
  int threads_;
};

}  // namespace

template <class T>
Problem check_steps(const Network<T>& network, const std::vector<Step>& steps, int threads) {
  if (threads != 1 && threads != network.threads()) return {"neither one thread nor all of them", Problem::NO_STEP};
  for (std::size_t i = 0; i < steps.size(); i++) {
    if (const char* const what = Checker<T>(network, steps[i], threads).check()) return {what, static_cast<int>(i)};
  }
  return {};
}

#define MNV2_INSTANTIATE(T) template Problem check_steps<T>(const Network<T>&, const std::vector<Step>&, int);
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
