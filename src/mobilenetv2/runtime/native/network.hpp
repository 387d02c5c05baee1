// A network as the extension sees it: packed weights, and plans, one per input shape, that say what runs on what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "fork_safe_mutex.hpp"
#include "kernels.hpp"
#include "pool.hpp"

namespace mobilenetv2 {

// An array that begins on a cache line, with a line to spare behind it: some kernels read whole vectors.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size) : Buffer(new unsigned char[size * sizeof(T) + 2 * LINE_BYTES], size) {}
  // Empty where there is no memory.
  static Buffer if_there_is_memory(std::size_t size) {
    unsigned char* const bytes = new (std::nothrow) unsigned char[size * sizeof(T) + 2 * LINE_BYTES];
    return bytes ? Buffer(bytes, size) : Buffer();
  }
  // In memory of somebody else.
  static Buffer within(unsigned char* bytes, std::size_t size) {
    Buffer buffer;
    buffer.data_ = reinterpret_cast<T*>(bytes);
    buffer.size_ = size;
    return buffer;
  }
  T* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  Buffer(unsigned char* bytes, std::size_t size) : bytes_(bytes), size_(size) {
    const std::size_t past = reinterpret_cast<std::uintptr_t>(bytes_.get()) % LINE_BYTES;
    data_ = reinterpret_cast<T*>(bytes_.get() + (past ? LINE_BYTES - past : 0));
  }

  std::unique_ptr<unsigned char[]> bytes_;
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// One piece of memory for many arrays, in large pages where the system has them: it hands out one of 2 MiB sooner than
// its 512 small ones.
class Reserve {
 public:
  Reserve() = default;
  Reserve(const Reserve&) = delete;
  ~Reserve();

  // Once; without effect where there is no memory.
  void set_size(std::size_t bytes);
  // As Buffer wants it, or null where too little is left.
  unsigned char* take(std::size_t bytes);

 private:
  unsigned char* memory_ = nullptr;
  std::size_t size_ = 0, taken_ = 0;
};

// What is wrong with weights or a plan: a sentence, null where nothing is; and which step of a plan it is about.
struct Problem {
  static constexpr int NO_STEP = -1;
  const char* what = nullptr;
  int step = NO_STEP;
};

inline constexpr char NO_MEMORY[] = "there is no memory for it";

// What an int8 layer does with its sums, beside the factors of its channels; see Requantize. `low` and `high` are codes
// less `zero`; `input_zero` is the zero point of the input: what the border of a depthwise layer, and of a mean, counts
// as.
struct Rounding {
  RoundingMode mode = RoundingMode::ONCE;
  int zero = 0, input_zero = 0;
  float low = 0, high = 255;
  int shortcut_zero = 0;
  float shortcut_factor = 1;
  float product_low = 0, product_high = 0;
  Twice product{1, 1}, shortcut{1, 1}, total{1, 1};
  float float_scale = 1;
};

// The factors of an int8 layer, one number per channel; see Requantize. Null where the mode has none.
struct Factors {
  const float* factor;
  const double *fraction, *power;
};

// Lanes of a panel that have weights.
inline int weight_lanes(const Panel& panel, int lanes) { return panel.vectors * lanes - (panel.half ? lanes / 2 : 0); }

// A weight matrix cut into panels for one target.
template <class T>
struct Matrix {
  int channels = 0;
  int depth = 0;                   // over all rows and segments
  int input_factor = 0, tail = 0;  // see Matmul
  std::vector<Panel> panels;
  bool in_order = false;  // see Kernels::fours_vectors
  Buffer<typename Types<T>::Weight> weights;
  Buffer<typename Types<T>::Sum> bias;
  Buffer<float> factor, half;  // of int8, as all that follows
  Buffer<double> fraction, power;
  Rounding rounding;
  Near near{};
  std::size_t begin = 0;  // lines of weights in the matrices added before

  std::size_t lines() const { return weights.size() * sizeof(typename Types<T>::Weight) / LINE_BYTES; }
};

template <class T>
struct DepthwiseWeights {
  int channels = 0;
  int copies = 1;
  Buffer<typename Types<T>::Tap> weights;  // as Depthwise wants them
  Buffer<typename Types<T>::Sum> bias;
  Buffer<float> factor, half;
  Buffer<double> fraction, power;
  Rounding rounding;
  Near near{};
};

// What makes output rows out of input rows: a k x k convolution (`conv` is set), or an inverted residual without the
// parts whose handle is -1. Handles are those that Network::add_* gave.
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

// Offsets are elements into the workspace for a batch of one; a batch of n has everything n times. IMAGE is the
// caller's image; ANSWER, ANSWER - 1 and so on are the caller's outputs.
constexpr std::ptrdiff_t IMAGE = -1;
constexpr std::ptrdiff_t ANSWER = -2;

enum class StepKind : std::int32_t {
  ROWS,    // the stages, chained, over strips of rows; threads take bands of rows
  PLANE,   // one inverted residual, a chunk of wide channels at a time over the whole plane; threads take chunks, then
           // parts of the output
  MATMUL,  // a 1x1 convolution or a linear layer, over all pixels
  MEAN,    // the average of each channel over all pixels
  ADD,     // two tensors of one shape
  CONCAT,  // tensors of one size, channels side by side
  RESIZE,  // bilinear, corners aligned
  LABELS,  // the best channel of each pixel of a RESIZE
  TO_FLOAT,  // float32 of stored bytes
};

struct Step {
  StepKind kind = StepKind::ROWS;
  std::vector<Stage> stages;  // ROWS, PLANE
  std::vector<std::ptrdiff_t> inputs;
  std::vector<int> input_channels;  // CONCAT: of each input
  std::ptrdiff_t output = 0;
  // PLANE: the depthwise output; ROWS in place: rows around the edges of bands; MATMUL of some pixels into an answer:
  // elements of it that other steps make before.
  std::ptrdiff_t scratch = 0;
  int chunk = 0;    // PLANE: panels of expand at once
  int stripes = 1;  // ROWS that begin with a convolution: the columns are cut into so many, one after another
  int matrix = -1;  // MATMUL
  float low = 0, high = 0;
  Rounding rounding;       // MEAN, TO_FLOAT and RESIZE over bytes
  double mean_factor = 1;  // MEAN over bytes: of the sum, see finished_mean
  double mean_divisor = 1;
  std::vector<std::uint8_t> rescaling;  // CONCAT over bytes: per input, what each of the 256 codes becomes
  bool reads_floats = false;            // RESIZE and LABELS among bytes: of a float32 tensor
  bool signed_codes = false;            // RESIZE and LABELS over bytes: rounded as TensorFlow Lite's int8, else uint8
  int label_bytes = 1;                  // LABELS: of each
  int in_channels = 0, in_height = 0, in_width = 0, out_channels = 0, out_height = 0, out_width = 0;
  std::ptrdiff_t top = 0;  // no tensor that is alive during the step reaches beyond
  // Set by Network::plan: elements that each thread needs, and multiply-adds of bytes, or what takes as long, between
  // two times that threads wait for each other.
  std::size_t thread_scratch = 0;
  std::int64_t work = 0;

  std::size_t in_pixels() const { return static_cast<std::size_t>(in_height) * static_cast<std::size_t>(in_width); }
  std::size_t in_size() const { return in_pixels() * static_cast<std::size_t>(in_channels); }
  std::size_t out_size() const {
    return static_cast<std::size_t>(out_height) * static_cast<std::size_t>(out_width) *
           static_cast<std::size_t>(out_channels);
  }
};

struct Plan {
  std::vector<Step> steps;
  int threads = 1;                        // of one, a run stays on the calling thread and others run beside it
  std::size_t image_size = 0;             // elements of one image
  std::vector<std::size_t> answer_sizes;  // elements of each output for one image
  std::vector<int> answer_bytes;          // of each element: 4 of float32, 1 or 2 of labels
  std::size_t widest_scratch = 0;         // of a thread

  // The workspace: in each step the tensors, and behind them the threads' scratch.
  std::size_t size(int images) const;
  // Where a thread's scratch begins, in a workspace of that size: in the same place in all steps, as far as tensors
  // leave room. Else threads would write to what lies in each other's caches.
  std::size_t scratch(const Step& step, int slot, int images, std::size_t size) const;
};

template <class T>
class Network;

// What is wrong with the numbers of a rounding of bytes, or null.
const char* check_rounding(const Rounding& rounding);

// Whether a step of a network of bytes makes float32.
template <class T>
bool makes_floats(const Network<T>& network, const Step& step);

struct Images {
  const std::uint8_t* pixels;  // or null
  const float* values;         // or null
  int count;
};

template <class T>
class Network {
 public:
  using Weight = typename Types<T>::Weight;
  using Given = typename Types<T>::Given;
  using Tap = typename Types<T>::Tap;
  using Sum = typename Types<T>::Sum;

  // `threads`: at least 1, and at most; threads() says how many the system gave.
  Network(const Kernels<T>& kernels, int threads);

  // Room for so many weights of matrices, before the first of them; more have memory of their own.
  void reserve(std::size_t weights);

  // A handle, or -1 and what is wrong.
  // (channels, depth) row by row, one bias per channel. The depth of a segment is a multiple of Types<T>::TOGETHER,
  // with zeros behind the weights of its last `tail` inputs.
  int add_matrix(const Given* weights, const Sum* bias, int channels, int depth, int input_factor, int tail,
                 const Factors& factors, const Rounding& rounding, Problem& problem);
  // As Depthwise wants them.
  int add_depthwise(const Tap* weights, const Sum* bias, int channels, int copies, const Factors& factors,
                    const Rounding& rounding, Problem& problem);
  // Input values that stand for zero once normalised, one per channel: the border of a convolution over uint8 pixels.
  void set_pixel_padding(std::vector<float> values) { padding_ = std::move(values); }

  // `threads`: 1 or threads(). Checks every precondition of the executor and the kernels; null, and what is wrong,
  // where one fails.
  std::unique_ptr<Plan> plan(std::vector<Step> steps, int threads, Problem& problem) const;
  // `answers`: as many as the plan has. `seconds`: null, or one number per step, to which its time is added.
  // `workspace`: of as many elements as the plan says, or null: then one is kept from call to call.
  void run(const Plan& plan, const Images& images, void* const* answers, double* seconds = nullptr,
           T* workspace = nullptr);

  int threads() const { return threads_; }
  std::size_t weight_bytes() const;  // of all packed weights and what belongs to them
  const Kernels<T>& kernels() const { return *kernels_; }
  const Matrix<T>& matrix(int number) const { return matrices_[static_cast<std::size_t>(number)]; }
  const DepthwiseWeights<T>& depthwise(int number) const { return depthwises_[static_cast<std::size_t>(number)]; }
  const std::vector<Matrix<T>>& matrices() const { return matrices_; }
  const std::vector<DepthwiseWeights<T>>& depthwises() const { return depthwises_; }
  const std::vector<float>& padding() const { return padding_; }

 private:
  Buffer<T> take_workspace(std::size_t size);
  void give_back(Buffer<T> workspace);

  const Kernels<T>* kernels_;
  int threads_;
  Reserve reserve_;
  std::vector<Matrix<T>> matrices_;
  std::vector<DepthwiseWeights<T>> depthwises_;
  std::vector<float> padding_;
  Mutex pool_mutex_;
  std::unique_ptr<Pool> pool_;  // none for one thread: then calls run side by side, each on its own workspace
  ForkSafeMutex workspace_mutex_;
  std::vector<Buffer<T>> workspaces_;
};

}  // namespace mobilenetv2
