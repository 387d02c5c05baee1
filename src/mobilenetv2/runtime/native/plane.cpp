// The inverted residual on a small map: a chunk of wide channels at a time, so that every weight is read once.

#include <algorithm>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

// Panels that hold whole blocks.
template <class T>
int panels_of_blocks(const Matrix<T>& matrix) {
  return matrix.panels.size() > 1 ? std::max(1, BLOCK / matrix.panels[1].channel) : 1;
}

// Chunks of `step.chunk` panels at most, as many for each thread.
template <class T>
int chunk_count(const Matrix<T>& matrix, const Step& step, int threads) {
  const int panels = static_cast<int>(matrix.panels.size()), unit = panels_of_blocks(matrix);
  const int fewest = (panels + step.chunk - 1) / step.chunk;
  return std::min((fewest + threads - 1) / threads * threads, (panels + unit - 1) / unit);
}

// Channels of chunk `index` of expand's panels, of `count` that are about as large: [begin, end).
template <class T>
struct Chunk {
  const Panel* panels;
  int panel_count, begin, end;

  Chunk(const Matrix<T>& matrix, int count, int index) {
    const int all = static_cast<int>(matrix.panels.size()), unit = panels_of_blocks(matrix);
    const auto edge = [&](int i) { return std::min((all + unit - 1) / unit * i / count * unit, all); };
    const int from = edge(index), to = edge(index + 1);
    panel_count = to - from;
    panels = matrix.panels.data() + from;
    begin = panels->channel;
    end = to < all ? matrix.panels[static_cast<std::size_t>(to)].channel : matrix.channels;
  }
};

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
void run_chunk(const Run<T>& run, const Step& step, const Chunk<T>& chunk, int slot, const T* in, T* wide,
               std::ptrdiff_t out_block) {
  const Stage& stage = step.stages.front();
  const Matrix<T>& expand = run.network.matrix(stage.expand);
  T* const scratch = run.scratch_of(step, slot);
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

// Elements of a block of the depthwise output of one image.
std::ptrdiff_t wide_plane(const Stage& stage) {
  return static_cast<std::ptrdiff_t>(stage.out_height) * stage.out_width * BLOCK;
}

template <class T>
Matmul<T> projection(const Run<T>& run, const Step& step) {
  const Stage& stage = step.stages.front();
  const std::ptrdiff_t plane_size = wide_plane(stage);
  const int pixels = stage.out_height * stage.out_width * run.images.count;
  Matmul<T> job = blocked_matmul(run.network.matrix(stage.project), run.tensor(step.scratch),
                                 plane_size * run.images.count, pixels, stage.low, stage.high);
  job.out = run.tensor(step.output);
  if (stage.shortcut) job.shortcut = run.tensor(step.inputs[0]);
  return job;
}

}  // namespace

template <class T>
std::size_t plane_scratch_size(const Network<T>& network, const Step& step) {
  const Stage& stage = step.stages.front();
  const Matrix<T>& expand = network.matrix(stage.expand);
  int widest = 0;
  const int chunks = chunk_count(expand, step, 1);
  for (int i = 0; i < chunks; i++) {
    const Chunk<T> chunk(expand, chunks, i);
    widest = std::max(widest, chunk.end - chunk.begin);
  }
  const std::size_t pointers = static_cast<std::size_t>(row_count(stage)) * sizeof(const T*) / sizeof(T);
  return up_to_line<T>(map_elements<T>(stage, widest) + pointers);
}

template <class T>
void run_plane(const Run<T>& run, const Step& step) {
  const Matrix<T>& expand = run.network.matrix(step.stages.front().expand);
  const int chunks = chunk_count(expand, step, run.hands(step));
  run.share(step, chunks, [&run, &step, chunks](int task, int slot) {
    const Stage& stage = step.stages.front();
    const Chunk<T> chunk(run.network.matrix(stage.expand), chunks, task);
    const std::ptrdiff_t plane_size = wide_plane(stage);
    for (int image = 0; image < run.images.count; image++) {
      const std::ptrdiff_t in = static_cast<std::ptrdiff_t>(step.in_size()) * image;
      run_chunk(run, step, chunk, slot, run.tensor(step.inputs[0]) + in, run.tensor(step.scratch) + plane_size * image,
                plane_size * run.images.count);
    }
  });
  parallel_matmul(run, step, run.network.matrix(step.stages.front().project), projection<T>);
}

#define MNV2_INSTANTIATE(T)                                                   \
  template std::size_t plane_scratch_size<T>(const Network<T>&, const Step&); \
  template void run_plane<T>(const Run<T>&, const Step&);
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
