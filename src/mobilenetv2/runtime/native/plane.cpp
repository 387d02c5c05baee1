// The inverted residual on a small map: a chunk of wide channels at a time, so that every weight is read once.

#include <algorithm>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

// Channels of chunk `index` of expand's panels: [begin, end).
template <class T>
struct Chunk {
  const Panel* panels;
  int panel_count, begin, end;

  Chunk(const Matrix<T>& matrix, int panels_each, int index) {
    const int from = index * panels_each;
    const int all = static_cast<int>(matrix.panels.size());
    panel_count = std::min(panels_each, all - from);
    panels = matrix.panels.data() + from;
    begin = panels->channel;
    end = from + panel_count < all ? panels[panel_count].channel : matrix.channels;
  }
};

template <class T>
int chunk_count(const Matrix<T>& matrix, const Step& step) {
  return (static_cast<int>(matrix.panels.size()) + step.chunk - 1) / step.chunk;
}

// Rows of input that all output rows read, those outside of the image included.
int row_count(const Stage& stage) { return (stage.out_height - 1) * stage.stride + 2 * stage.dilation + 1; }

// Elements of a map of so many channels as expand writes it, in whole cache lines, with room for rows in fours.
template <class T>
std::size_t map_elements(const Stage& stage, int channels) {
  const int width = sizeof(T) == 1 ? up_to_four(stage.in_width) : stage.in_width;
  return up_to_line<T>(static_cast<std::size_t>(stage.in_height) * static_cast<std::size_t>(width) *
                       static_cast<std::size_t>(channels));
}

// Expands one chunk of one image and convolves it into its own blocks, `out_block` apart, of `wide`.
template <class T>
void run_chunk(const Run<T>& run, const Stage& stage, const Chunk<T>& chunk, int slot, const T* in, T* wide,
               std::ptrdiff_t out_block) {
  const Matrix<T>& expand = run.network.matrix(stage.expand);
  T* const scratch = run.scratch_of(slot);
  const bool fours = in_fours(run.network, stage, stage.expand);
  const std::ptrdiff_t row_size =
      static_cast<std::ptrdiff_t>(fours ? up_to_four(stage.in_width) : stage.in_width) * BLOCK;
  Matmul<T> product = dense_matmul(expand, in, stage.in_channels, stage.in_height * stage.in_width, scratch,
                                   stage.wide_low, stage.wide_high);
  product.panels = chunk.panels;
  product.panel_count = chunk.panel_count;
  product.channels = chunk.end;
  product.out_pixel = BLOCK;
  product.out_block = stage.in_height * row_size;
  product.out_channel = chunk.begin;
  product.fours_width = fours ? stage.in_width : 0;
  run.ahead[slot].fetch(expand, product);
  run.network.kernels().matmul(product);

  Depthwise<T> job = depthwise_job(run.network.depthwise(stage.depthwise), stage);
  job.fours = fours;
  job.in_block = product.out_block;
  job.blocks = (chunk.end - chunk.begin) / BLOCK;
  job.weights += chunk.begin / BLOCK * job.weight_block;
  job.bias += chunk.begin;
  if (job.requantize.factor) job.requantize.factor += chunk.begin;
  if (job.requantize.half) job.requantize.half += chunk.begin;
  if (job.requantize.fraction) job.requantize.fraction += chunk.begin;
  if (job.requantize.power) job.requantize.power += chunk.begin;
  job.out_block = out_block;
  const T** const rows = reinterpret_cast<const T**>(scratch + map_elements<T>(stage, chunk.end - chunk.begin));
  for (int i = 0; i < row_count(stage); i++) {
    const int row = i - stage.top;
    rows[i] = row >= 0 && row < stage.in_height ? scratch + row * row_size : nullptr;
  }
  job.rows = rows;
  job.out = wide + chunk.begin / BLOCK * out_block;
  job.out_rows = stage.out_height;
  run.network.kernels().depthwise(job);
}

}  // namespace

template <class T>
std::size_t plane_scratch_size(const Network<T>& network, const Step& step) {
  const Stage& stage = step.stages.front();
  const Matrix<T>& expand = network.matrix(stage.expand);
  int widest = 0;
  for (int i = 0; i < chunk_count(expand, step); i++) {
    const Chunk<T> chunk(expand, step.chunk, i);
    widest = std::max(widest, chunk.end - chunk.begin);
  }
  const std::size_t pointers = static_cast<std::size_t>(row_count(stage)) * sizeof(const T*) / sizeof(T);
  return up_to_line<T>(map_elements<T>(stage, widest) + pointers);
}

template <class T>
void run_plane(const Run<T>& run, const Step& step) {
  const Stage& stage = step.stages.front();
  const Matrix<T>& expand = run.network.matrix(stage.expand);
  const std::ptrdiff_t in_size = static_cast<std::ptrdiff_t>(stage.in_height) * stage.in_width * stage.in_channels;
  const int out_pixels = stage.out_height * stage.out_width;
  const std::ptrdiff_t plane_size = static_cast<std::ptrdiff_t>(out_pixels) * BLOCK;
  const T* const input = run.tensor(step.inputs[0]);
  T* const wide = run.tensor(step.scratch);
  run.pool->parallel(chunk_count(expand, step), [&](int task, int slot) {
    const Chunk<T> chunk(expand, step.chunk, task);
    for (int image = 0; image < run.images.count; image++) {
      run_chunk(run, stage, chunk, slot, input + image * in_size, wide + image * plane_size,
                plane_size * run.images.count);
    }
  });
  const Matrix<T>& matrix = run.network.matrix(stage.project);
  Matmul<T> project =
      blocked_matmul(matrix, wide, plane_size * run.images.count, out_pixels * run.images.count, stage.low, stage.high);
  project.out = run.tensor(step.output);
  if (stage.shortcut) project.shortcut = input;
  parallel_matmul(run, matrix, project);
}

#define MNV2_INSTANTIATE(T)                                                   \
  template std::size_t plane_scratch_size<T>(const Network<T>&, const Step&); \
  template void run_plane<T>(const Run<T>&, const Step&);
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
