#include "execute.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace mobilenetv2 {
namespace {

constexpr std::size_t AHEAD_LINES = (256 << 10) / 64;  // leaves the second-level cache room for the work at hand
constexpr int AHEAD_PIXELS = 256;                      // weights that meet more pixels are worth waiting for
constexpr int PART_PIXELS = 16;                        // a part of a product has about as many at least

int pixels_of(const Step& step) { return step.in_height * step.in_width; }

void run_matmul(const Run& run, const Step& step) {
  const Matrix& matrix = run.network.matrix(step.matrix);
  parallel_matmul(run, matrix,
                  dense_matmul(matrix, run.tensor(step.inputs[0]), pixels_of(step) * run.images.count,
                               run.tensor(step.output), step.low, step.high));
}

void run_add(const Run& run, const Step& step) {
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(pixels_of(step)) * step.out_channels;
  const float *a = run.tensor(step.inputs[0]), *b = run.tensor(step.inputs[1]);
  float* const out = run.tensor(step.output);
  run.pool->parallel(run.images.count, [&](int picture, int) {
    run.network.kernels().add(a + picture * count, b + picture * count, out + picture * count, count);
  });
}

void run_concat(const Run& run, const Step& step) {
  float* const out = run.tensor(step.output);
  std::ptrdiff_t channel = 0;
  for (std::size_t i = 0; i < step.inputs.size(); i++) {
    const float* const in = run.tensor(step.inputs[i]);
    const std::ptrdiff_t channels = step.input_channels[i];
    for (std::ptrdiff_t p = 0; p < static_cast<std::ptrdiff_t>(pixels_of(step)) * run.images.count; p++) {
      std::memcpy(out + p * step.out_channels + channel, in + p * channels,
                  static_cast<std::size_t>(channels) * sizeof(float));
    }
    channel += channels;
  }
}

void run_mean(const Run& run, const Step& step) {
  constexpr int PART_CHANNELS = 256;
  const int channels = step.out_channels, parts = (channels + PART_CHANNELS - 1) / PART_CHANNELS;
  const float* const in = run.tensor(step.inputs[0]);
  float* const out = run.tensor(step.output);
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(pixels_of(step)) * channels;
  run.pool->parallel(run.images.count * parts, [&](int task, int) {
    const int picture = task / parts, from = task % parts * PART_CHANNELS;
    run.network.kernels().mean(in + picture * count + from, pixels_of(step), channels,
                               std::min(PART_CHANNELS, channels - from),
                               out + static_cast<std::ptrdiff_t>(picture) * channels + from);
  });
}

// Where output i of `size` lies among `have` inputs whose corner centres are aligned with its own.
struct Place {
  int low, high;
  float share;  // of `high`

  Place(int i, int size, int have) {
    const double at = size > 1 ? static_cast<double>(i) * (have - 1) / (size - 1) : 0.0;
    low = std::min(static_cast<int>(at), have - 1);
    high = std::min(low + 1, have - 1);
    share = static_cast<float>(at - low);
  }
};

void run_resize(const Run& run, const Step& step) {
  const std::ptrdiff_t channels = step.out_channels;
  const float* const in = run.tensor(step.inputs[0]);
  float* const out = run.tensor(step.output);
  run.pool->parallel(run.images.count * step.out_height, [&](int task, int) {
    const int picture = task / step.out_height;
    const Place y(task % step.out_height, step.out_height, step.in_height);
    const float* const plane = in + static_cast<std::ptrdiff_t>(picture) * pixels_of(step) * channels;
    const float* const upper = plane + static_cast<std::ptrdiff_t>(y.low) * step.in_width * channels;
    const float* const lower = plane + static_cast<std::ptrdiff_t>(y.high) * step.in_width * channels;
    float* to = out + static_cast<std::ptrdiff_t>(task) * step.out_width * channels;
    for (int i = 0; i < step.out_width; i++) {
      const Place x(i, step.out_width, step.in_width);
      for (std::ptrdiff_t c = 0; c < channels; c++) {
        const std::ptrdiff_t left = x.low * channels + c, right = x.high * channels + c;
        const float near = upper[left] * (1 - y.share) + lower[left] * y.share;
        const float far = upper[right] * (1 - y.share) + lower[right] * y.share;
        *to++ = near * (1 - x.share) + far * x.share;
      }
    }
  });
}

void execute_step(const Run& run, const Step& step) {
  if (step.kind == "rows") {
    run_rows(run, step);
  } else if (step.kind == "plane") {
    run_plane(run, step);
  } else if (step.kind == "matmul") {
    run_matmul(run, step);
  } else if (step.kind == "add") {
    run_add(run, step);
  } else if (step.kind == "concat") {
    run_concat(run, step);
  } else if (step.kind == "mean") {
    run_mean(run, step);
  } else {
    run_resize(run, step);
  }
}

}  // namespace

std::size_t scratch_floats(const Network& network, const Step& step) {
  if (step.kind == "rows") return rows_scratch_floats(step);
  return step.kind == "plane" ? plane_scratch_floats(network, step) : 0;
}

void Ahead::fetch(const Matrix& matrix, Matmul& job) {
  if (job.pixels > AHEAD_PIXELS) return;
  const std::vector<Matrix>& all = network_.matrices();
  const Panel& last = job.panels[job.panel_count - 1];
  const std::size_t used = static_cast<std::size_t>(last.weights) / BLOCK +
                           static_cast<std::size_t>(last.vectors * network_.kernels().lanes * matrix.depth) / BLOCK;
  const std::size_t here = matrix.begin + used;
  if (all[matrix_].begin + line_ < here) {
    matrix_ = static_cast<std::size_t>(&matrix - all.data());
    line_ = used;
  }
  if (line_ == all[matrix_].weights.size() / BLOCK) {
    if (matrix_ + 1 == all.size()) return;
    matrix_++;
    line_ = 0;
  }
  const Matrix& next = all[matrix_];
  const std::size_t room = here + AHEAD_LINES - std::min(here + AHEAD_LINES, next.begin + line_);
  const std::size_t time = static_cast<std::size_t>(job.pixels / network_.kernels().tile_rows * job.panel_count) *
                           static_cast<std::size_t>(matrix.depth);
  job.ahead = next.weights.data() + line_ * BLOCK;
  job.ahead_lines = static_cast<int>(std::min({room, time, next.weights.size() / BLOCK - line_}));
  line_ += static_cast<std::size_t>(job.ahead_lines);
}

void execute(Run& run) {
  for (std::size_t i = 0; i < run.plan.steps.size(); i++) {
    run.scratch = run.workspace + run.plan.steps[i].top * run.images.count;
    run.scratch_floats = run.plan.steps[i].scratch;
    const auto begin = std::chrono::steady_clock::now();
    execute_step(run, run.plan.steps[i]);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (run.seconds) run.seconds[i] += taken.count();
  }
}

Matmul dense_matmul(const Matrix& matrix, const float* in, int pixels, float* out, float low, float high) {
  Matmul job{};
  job.in = in;
  job.in_pixel = matrix.depth;
  job.row_count = 1;
  job.segment_count = 1;
  job.depth = matrix.depth;
  job.pixels = pixels;
  job.panels = matrix.panels.data();
  job.panel_count = static_cast<int>(matrix.panels.size());
  job.weights = matrix.weights.data();
  job.bias = matrix.bias.data();
  job.channels = matrix.channels;
  job.shortcut_pixel = matrix.channels;
  job.out = out;
  job.out_pixel = matrix.channels;
  job.out_block = BLOCK;
  job.low = low;
  job.high = high;
  return job;
}

Matmul blocked_matmul(const Matrix& matrix, const float* in, std::ptrdiff_t in_block, int pixels, float low,
                      float high) {
  Matmul job = dense_matmul(matrix, in, pixels, nullptr, low, high);
  job.in_pixel = BLOCK;
  job.in_segment = in_block;
  job.segment_count = matrix.depth / BLOCK;
  job.depth = BLOCK;
  return job;
}

void parallel_matmul(const Run& run, const Matrix& matrix, const Matmul& job) {
  const int threads = run.pool->threads();
  const int parts = std::clamp(job.pixels / PART_PIXELS, 1, threads);
  run.pool->parallel(parts * job.panel_count, [&](int task, int slot) {
    const int part = task % parts;
    const auto edge = [&](int i) { return static_cast<std::ptrdiff_t>(job.pixels) * i / parts; };
    Matmul piece = job;
    piece.in += edge(part) * job.in_pixel;
    piece.out += edge(part) * job.out_pixel;
    if (job.shortcut) piece.shortcut += edge(part) * job.shortcut_pixel;
    piece.pixels = static_cast<int>(edge(part + 1) - edge(part));
    piece.panels = job.panels + task / parts;
    piece.panel_count = 1;
    run.ahead[slot].fetch(matrix, piece);
    run.network.kernels().matmul(piece);
  });
}

Depthwise depthwise_job(const DepthwiseWeights& weights, const Stage& stage) {
  Depthwise job{};
  job.in_width = stage.in_width;
  job.out_width = stage.out_width;
  job.stride = stage.stride;
  job.dilation = stage.dilation;
  job.left = stage.left;
  job.blocks = weights.channels / BLOCK;
  job.weights = weights.weights.data();
  job.weight_row = weights.channels;
  job.bias = weights.bias.data();
  job.low = stage.wide_low;
  job.high = stage.wide_high;
  return job;
}

}  // namespace mobilenetv2
