// A network as the extension sees it: packed weights, and plans, one an input shape, that say what runs on what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "pool.hpp"

namespace mobilenetv2 {

// Floats on a cache line's boundary.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t floats);
  float* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::unique_ptr<unsigned char[]> bytes_;
  float* data_ = nullptr;
  std::size_t size_ = 0;
};

// A weight matrix cut into panels for one target.
struct Matrix {
  int channels = 0;
  int depth = 0;  // over all segments
  std::vector<Panel> panels;
  Buffer weights, bias;
  std::size_t begin = 0;  // lines of weights in the matrices added before
};

struct DepthwiseWeights {
  int channels = 0;
  Buffer weights, bias;  // 9 x channels
};

// What makes output rows out of input rows: a k x k convolution (`conv` is set), or an inverted residual without the
// parts whose number is -1. Numbers are those that Network::add_* gave.
struct Stage {
  int in_height = 0, in_width = 0, in_channels = 0;
  int wide_channels = 0;
  int out_height = 0, out_width = 0, out_channels = 0;
  int kernel = 3, stride = 1, dilation = 1, top = 0, left = 0;
  int conv = -1, conv_pixels = -1;  // the second for uint8 input: normalisation folded in
  int expand = -1, depthwise = -1, project = -1;
  float wide_low = 0, wide_high = 6;  // activation of expand and depthwise
  float low = 0, high = 0;            // of the output, before the shortcut
  bool shortcut = false;
  int strip = 1;  // most output rows at once
};

// Offsets are floats into the workspace for a batch of one; a batch of n has everything n times. IMAGE is the caller's
// picture, ANSWER the caller's output.
constexpr std::ptrdiff_t IMAGE = -1;
constexpr std::ptrdiff_t ANSWER = -2;

struct Step {
  // "rows": the stages, chained, over strips of rows; threads take bands of rows. "plane": one inverted residual, a
  // chunk of wide channels at a time over the whole plane; threads take chunks, then parts of the output. "matmul",
  // "add", "concat", "mean", "resize": as they say, over all pixels.
  std::string kind;
  std::vector<Stage> stages;
  std::vector<std::ptrdiff_t> inputs;
  std::vector<int> input_channels;
  std::ptrdiff_t output = 0;
  std::ptrdiff_t wide = 0;  // "plane": where the depthwise output goes
  int chunk = 0;            // "plane": panels of expand at once
  int matrix = -1;          // "matmul"
  float low = 0, high = 0;
  int in_height = 0, in_width = 0, out_height = 0, out_width = 0, out_channels = 0;
  std::ptrdiff_t top = 0;   // no tensor that is alive during the step reaches beyond
  std::size_t scratch = 0;  // floats that each thread needs; set by Network::plan
};

struct Plan {
  std::vector<Step> steps;
  int threads = 1;  // of one, a run stays on the calling thread and others run beside it

  // The workspace: in each step the tensors, then the threads' scratch.
  std::size_t floats(int images) const;
};

struct Images {
  const std::uint8_t* pixels;  // or null
  const float* values;         // or null
  int count;
};

class Network {
 public:
  // Throws std::invalid_argument if the processor lacks the instruction set.
  Network(const std::string& isa, int threads);

  // (channels, depth) row by row.
  int add_matrix(const float* weights, const float* bias, int channels, int depth);
  // (9, channels).
  int add_depthwise(const float* weights, const float* bias, int channels);
  // Input values that stand for zero once normalised, one a channel: the border of a convolution over uint8 pixels.
  void set_pixel_padding(std::vector<float> values) { padding_ = std::move(values); }

  std::shared_ptr<Plan> plan(std::vector<Step> steps, int threads) const;
  // `seconds`: null, or a number for each step of the plan, to which its time is added.
  void run(const Plan& plan, const Images& images, float* answer, double* seconds = nullptr);

  int threads() const { return threads_; }
  const Kernels& kernels() const { return *kernels_; }
  const Matrix& matrix(int number) const { return matrices_[static_cast<std::size_t>(number)]; }
  const DepthwiseWeights& depthwise(int number) const { return depthwises_[static_cast<std::size_t>(number)]; }
  const std::vector<Matrix>& matrices() const { return matrices_; }
  const std::vector<float>& padding() const { return padding_; }
  std::size_t weight_bytes() const;

 private:
  Buffer take_workspace(std::size_t floats);
  void give_back(Buffer workspace);

  const Kernels* kernels_;
  int threads_;
  std::vector<Matrix> matrices_;
  std::vector<DepthwiseWeights> depthwises_;
  std::vector<float> padding_;
  std::mutex pool_mutex_;
  std::unique_ptr<Pool> pool_;  // none for one thread: then calls run side by side, each on its own workspace
  std::mutex workspace_mutex_;
  std::vector<Buffer> workspaces_;
};

}  // namespace mobilenetv2
