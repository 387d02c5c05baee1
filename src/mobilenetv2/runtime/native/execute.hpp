// Runs a plan.
#pragma once

#include "network.hpp"

namespace mobilenetv2 {

// Fetches weights into a thread's cache before it comes to them. They stream from farther than the second-level cache,
// and on small maps there is little to do with each; matrices are used in the order in which they were added.
template <class T>
class Ahead {
 public:
  explicit Ahead(const Network<T>& network) : network_(network) {}
  // Lets `job`, on panels of `matrix`, fetch what its time allows.
  void fetch(const Matrix<T>& matrix, Matmul<T>& job);

 private:
  const Network<T>& network_;
  std::size_t matrix_ = 0, line_ = 0;  // the next to fetch
  char apart_[2 * LINE_BYTES] = {};    // from that of the next thread
};

constexpr std::int64_t SMALL_WORK = 350000;  // of Step::work: 2 microseconds, in which threads hardly find each other

// One call: its input, its output, its workspace. It stays as it is: threads keep it in their caches.
template <class T>
struct alignas(LINE_BYTES) Run {
  const Network<T>& network;
  const Plan& plan;
  Images images;
  void* const* answers;
  T* workspace;
  std::size_t size;  // of the workspace
  Pool* pool;
  Ahead<T>* ahead;  // one per thread
  double* seconds;  // one per step, added to; null if nobody asks

  float* answer(std::ptrdiff_t offset) const { return static_cast<float*>(answers[ANSWER - offset]); }
  // Threads that share the step: one alone if it has too little to do.
  int hands(const Step& step) const { return step.work * images.count < SMALL_WORK ? 1 : pool->threads(); }
  // Calls body(task, slot) for every task of the step.
  template <class Body>
  void share(const Step& step, int count, const Body& body) const {
    if (hands(step) > 1) return pool->parallel(count, body);
    for (int task = 0; task < count; task++) body(task, 0);
  }
  // Where a tensor of the plan begins, image 0. An answer is one only if it is of the same type.
  T* tensor(std::ptrdiff_t offset) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (offset <= ANSWER) return answer(offset);
    }
    return workspace + offset * images.count;
  }
  // Where a tensor of float32 begins, in a network of bytes too.
  float* floats(std::ptrdiff_t offset) const {
    return offset <= ANSWER ? answer(offset) : reinterpret_cast<float*>(workspace + offset * images.count);
  }
  T* scratch_of(const Step& step, int slot) const { return workspace + plan.scratch(step, slot, images.count, size); }
};

constexpr int up_to_four(int pixels) { return (pixels + FOUR - 1) / FOUR * FOUR; }
constexpr int up_to_block(int channels) { return (channels + BLOCK - 1) / BLOCK * BLOCK; }
template <class T>
constexpr std::size_t up_to_line(std::size_t size) {
  return (size + LINE_BYTES / sizeof(T) - 1) / (LINE_BYTES / sizeof(T)) * (LINE_BYTES / sizeof(T));
}

// Whether the stage's depthwise convolution reads maps in fours on targets that have them.
template <class T>
bool takes_fours(const Network<T>& network, const Stage& stage) {
  const bool padded = stage.stride == 1 ? stage.left == 1 : stage.stride == 2 && stage.left <= 1;
  return padded && stage.dilation == 1 && network.depthwise(stage.depthwise).copies <= 2;
}
// Whether the map that `matrix` makes for it is in fours.
template <class T>
bool in_fours(const Network<T>& network, const Stage& stage, int matrix) {
  return matrix >= 0 && network.matrix(matrix).in_order && takes_fours(network, stage);
}

template <class T>
std::size_t scratch_size(const Network<T>& network, const Step& step);
template <class T>
void execute(const Run<T>& run);

// The parts: rows.cpp, plane.cpp, resize.cpp.
template <class T>
std::size_t rows_scratch_size(const Step& step);
std::size_t rows_scratch(const Step& step, int item_bytes);
template <class T>
void run_rows(const Run<T>& run, const Step& step);
template <class T>
std::size_t plane_scratch_size(const Network<T>& network, const Step& step);
template <class T>
void run_plane(const Run<T>& run, const Step& step);
template <class T>
std::size_t resize_scratch_size(const Step& step);
template <class T>
void run_resize(const Run<T>& run, const Step& step);

// A job for the whole matrix over dense pixels of `channels`; callers change what differs. `low` and `high` are for
// floats: int8 matrices have clamps of their own.
template <class T>
Matmul<T> dense_matmul(const Matrix<T>& matrix, const T* in, int channels, int pixels, T* out, float low, float high);
// A job that reads a blocked tensor; where the output goes is the caller's.
template <class T>
Matmul<T> blocked_matmul(const Matrix<T>& matrix, const T* in, std::ptrdiff_t in_block, int pixels, float low,
                         float high);
// The job that `make` makes, cut into parts for the threads.
template <class T>
void parallel_matmul(const Run<T>& run, const Step& step, const Matrix<T>& matrix,
                     Matmul<T> (*make)(const Run<T>&, const Step&));
template <class T>
Depthwise<T> depthwise_job(const DepthwiseWeights<T>& weights, const Stage& stage);

}  // namespace mobilenetv2
