// Runs a plan.
#pragma once

#include "network.hpp"

namespace mobilenetv2 {

// Fetches weights into a thread's cache before it comes to them. They stream from farther than the second-level cache,
// and on small maps there is little to do with each; matrices are used in the order in which they were added.
class Ahead {
 public:
  explicit Ahead(const Network& network) : network_(network) {}
  // Lets `job`, on panels of `matrix`, fetch what its time allows.
  void fetch(const Matrix& matrix, Matmul& job);

 private:
  const Network& network_;
  std::size_t matrix_ = 0, line_ = 0;  // the next to fetch
};

// One call: its input, its output, its workspace.
struct Run {
  const Network& network;
  const Plan& plan;
  Images images;
  float* answer;
  float* workspace;
  Pool* pool;
  float* scratch;              // of the step at hand
  std::size_t scratch_floats;  // a thread
  Ahead* ahead;                // a thread
  double* seconds;             // a step, added to; null if nobody asks

  // Where a tensor of the plan begins, picture 0.
  float* tensor(std::ptrdiff_t offset) const { return offset == ANSWER ? answer : workspace + offset * images.count; }
  float* scratch_of(int slot) const { return scratch + scratch_floats * static_cast<std::size_t>(slot); }
};

constexpr int up_to_block(int channels) { return (channels + BLOCK - 1) / BLOCK * BLOCK; }
constexpr std::size_t up_to_line(std::size_t floats) { return (floats + BLOCK - 1) / BLOCK * BLOCK; }

std::size_t scratch_floats(const Network& network, const Step& step);
void execute(Run& run);

// The parts: rows.cpp, plane.cpp.
std::size_t rows_scratch_floats(const Step& step);
void run_rows(const Run& run, const Step& step);
std::size_t plane_scratch_floats(const Network& network, const Step& step);
void run_plane(const Run& run, const Step& step);

// A job for the whole matrix over dense pixels of `matrix.depth` floats; callers change what differs.
Matmul dense_matmul(const Matrix& matrix, const float* in, int pixels, float* out, float low, float high);
// A job that reads a blocked tensor; where the output goes is the caller's.
Matmul blocked_matmul(const Matrix& matrix, const float* in, std::ptrdiff_t in_block, int pixels, float low,
                      float high);
// The job, cut into parts for the threads.
void parallel_matmul(const Run& run, const Matrix& matrix, const Matmul& job);
Depthwise depthwise_job(const DepthwiseWeights& weights, const Stage& stage);

}  // namespace mobilenetv2
