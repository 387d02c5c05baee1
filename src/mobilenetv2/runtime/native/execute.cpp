#include "execute.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu.hpp"

namespace mobilenetv2 {
namespace {

constexpr std::size_t AHEAD_LINES = (256 << 10) / 64;  // leaves the second-level cache room for the work at hand
constexpr int AHEAD_PIXELS = 256;                      // weights that meet more pixels are worth waiting for
constexpr int PART_PIXELS = 16;                        // a part of a product has about as many at least

int pixels_of(const Step& step) { return step.in_height * step.in_width; }

template <class T>
Matmul<T> whole_matmul(const Run<T>& run, const Step& step) {
  const Matrix<T>& matrix = run.network.matrix(step.matrix);
  Matmul<T> job = dense_matmul(matrix, run.tensor(step.inputs[0]), step.in_channels, pixels_of(step) * run.images.count,
                               run.tensor(step.output), step.low, step.high);
  if (makes_floats(run.network, step)) job.requantize.floats = run.floats(step.output);
  if (step.output <= ANSWER) {
    const std::ptrdiff_t before = step.scratch * run.images.count;
    job.out += before;
    if (job.requantize.floats) job.requantize.floats += before;
  }
  return job;
}

template <class T>
void run_add(const Run<T>& run, const Step& step) {
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(pixels_of(step)) * step.out_channels;
  const T *a = run.tensor(step.inputs[0]), *b = run.tensor(step.inputs[1]);
  T* const out = run.tensor(step.output);
  run.share(step, run.images.count, [&](int image, int) {
    for (std::ptrdiff_t i = image * count; i < (image + 1) * count; i++) {
      out[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
    }
  });
}

bool is_identity(const std::uint8_t* table) {
  for (int code = 0; code < 256; code++) {
    if (table[code] != code) return false;
  }
  return true;
}

template <class T>
void run_concat(const Run<T>& run, const Step& step) {
  T* const out = run.tensor(step.output);
  std::ptrdiff_t channel = 0;
  for (std::size_t i = 0; i < step.inputs.size(); i++) {
    const T* const in = run.tensor(step.inputs[i]);
    const std::ptrdiff_t channels = step.input_channels[i];
    const std::uint8_t* const table = step.rescaling.empty() ? nullptr : step.rescaling.data() + 256 * i;
    const bool copies = !table || is_identity(table);
    run.share(step, step.in_height * run.images.count, [&](int row, int) {
      const std::ptrdiff_t begin = static_cast<std::ptrdiff_t>(row) * step.in_width, end = begin + step.in_width;
      for (std::ptrdiff_t p = begin; p < end; p++) {
        T* const to = out + p * step.out_channels + channel;
        const T* const from = in + p * channels;
        if (copies) {
          std::memcpy(to, from, static_cast<std::size_t>(channels) * sizeof(T));
        } else if constexpr (sizeof(T) == 1) {
          for (std::ptrdiff_t c = 0; c < channels; c++) to[c] = table[from[c]];
        }
      }
    });
    channel += channels;
  }
}

// The mean of a channel from its sum over `pixels` pixels.
template <class T>
T finished_mean(const Step&, float sum, int pixels) {
  return from_float<T>(sum * (1.0f / static_cast<float>(pixels)));
}

// Of bytes, from the sum less the zero points of all pixels: times the factor; or, rounded twice, divided after it.
template <class T>
T finished_mean(const Step& step, std::int32_t sum, int pixels) {
  const Rounding& to = step.rounding;
  const std::int32_t centred = sum - pixels * to.input_zero;
  const float value =
      is_once(to.mode)
          ? static_cast<float>(centred) * static_cast<float>(step.mean_factor)
          : static_cast<float>(half_away_from_zero(std::floor(centred * step.mean_factor + 0.5) / step.mean_divisor));
  return code_of(value, to.low, to.high, to.zero);
}

template <class T>
void run_mean(const Run<T>& run, const Step& step) {
  constexpr int PART_CHANNELS = 256;
  const int channels = step.out_channels, parts = (channels + PART_CHANNELS - 1) / PART_CHANNELS;
  const T* const in = run.tensor(step.inputs[0]);
  T* const out = run.tensor(step.output);
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(pixels_of(step)) * channels;
  run.share(step, run.images.count * parts, [&](int task, int) {
    const int image = task / parts, from = task % parts * PART_CHANNELS;
    const int width = std::min(PART_CHANNELS, channels - from);
    typename Types<T>::Sum sums[PART_CHANNELS];
    run.network.kernels().sum(in + image * count + from, pixels_of(step), channels, width, sums);
    T* const to = out + static_cast<std::ptrdiff_t>(image) * channels + from;
    for (int c = 0; c < width; c++) to[c] = finished_mean<T>(step, sums[c], pixels_of(step));
  });
}

template <class T>
void run_to_float(const Run<T>& run, const Step& step) {
  float* const out = run.answer(step.output);
  const T* const in = run.tensor(step.inputs[0]);
  const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(pixels_of(step)) * step.out_channels * run.images.count;
  for (std::ptrdiff_t i = 0; i < count; i++) {
    out[i] = to_float(in[i]);
    if constexpr (sizeof(T) == 1) {
      out[i] = (out[i] - static_cast<float>(step.rounding.input_zero)) * step.rounding.float_scale;
    }
  }
}

template <class T>
void execute_step(const Run<T>& run, const Step& step) {  // Network::plan refuses kinds that do not run over T
  switch (step.kind) {
    case StepKind::ROWS:
      return run_rows(run, step);
    case StepKind::PLANE:
      return run_plane(run, step);
    case StepKind::MATMUL:
      return parallel_matmul(run, step, run.network.matrix(step.matrix), whole_matmul<T>);
    case StepKind::MEAN:
      return run_mean(run, step);
    case StepKind::ADD:
      if constexpr (sizeof(T) != 1) return run_add(run, step);
      break;
    case StepKind::CONCAT:
      return run_concat(run, step);
    case StepKind::RESIZE:
    case StepKind::LABELS:
      return run_resize(run, step);
    case StepKind::TO_FLOAT:
      if constexpr (sizeof(T) != sizeof(float)) return run_to_float(run, step);
      break;
  }
}

// Lines of weights up to the end of `panel`, counted from the matrix's first.
template <class T>
std::size_t lines_up_to(const Matrix<T>& matrix, const Panel& panel, int lanes) {
  const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(weight_lanes(panel, lanes)) * matrix.depth;
  return static_cast<std::size_t>(panel.weights + size) * sizeof(typename Types<T>::Weight) / LINE_BYTES;
}

}  // namespace

template <class T>
std::size_t scratch_size(const Network<T>& network, const Step& step) {
  if (step.kind == StepKind::ROWS) return rows_scratch_size<T>(step);
  if (step.kind == StepKind::RESIZE || step.kind == StepKind::LABELS) return resize_scratch_size<T>(step);
  return step.kind == StepKind::PLANE ? plane_scratch_size(network, step) : 0;
}

template <class T>
void Ahead<T>::fetch(const Matrix<T>& matrix, Matmul<T>& job) {
  if (job.pixels > AHEAD_PIXELS) return;
  constexpr std::size_t STEP = Types<T>::TOGETHER;  // of the depth, in which a line is fetched
  const std::vector<Matrix<T>>& all = network_.matrices();
  const std::size_t used = lines_up_to(matrix, job.panels[job.panel_count - 1], network_.kernels().lanes);
  const std::size_t here = matrix.begin + used;
  if (all[matrix_].begin + line_ < here) {
    matrix_ = static_cast<std::size_t>(&matrix - all.data());
    line_ = used;
  }
  if (line_ >= all[matrix_].lines()) {
    if (matrix_ + 1 == all.size()) return;
    matrix_++;
    line_ = 0;
  }
  const Matrix<T>& next = all[matrix_];
  const std::size_t room = here + AHEAD_LINES - std::min(here + AHEAD_LINES, next.begin + line_);
  const Kernels<T>& kernels = network_.kernels();
  const int rows = job.in_order ? kernels.fours_rows : kernels.tile_rows;
  int tiles = job.pixels / rows;
  if (job.in_order && job.fours_width % FOUR == 0) tiles = (job.pixels + rows - 1) / rows;
  if (job.fours_width % FOUR != 0) tiles = job.pixels / job.fours_width * ((job.fours_width + rows - 1) / rows);
  const std::size_t time =
      static_cast<std::size_t>(tiles * job.panel_count) * static_cast<std::size_t>(matrix.depth) / STEP;
  job.ahead = next.weights.data() + line_ * LINE_BYTES / sizeof(typename Types<T>::Weight);
  job.ahead_lines = static_cast<int>(std::min({room, time, next.lines() - line_}));
  line_ += static_cast<std::size_t>(job.ahead_lines);
}

template <class T>
void execute(const Run<T>& run) {
  for (std::size_t i = 0; i < run.plan.steps.size(); i++) {
    const double begin = run.seconds ? seconds_now() : 0;
    execute_step(run, run.plan.steps[i]);
    if (run.seconds) run.seconds[i] += seconds_now() - begin;
  }
}

// Puts into a job what an int8 layer carries with it.
template <class Job, class Packed>
void set_rounding(Job& job, const Packed& packed) {
  const Rounding& from = packed.rounding;
  job.low = from.low;
  job.high = from.high;
  job.requantize = {from.mode,
                    packed.factor.data(),
                    packed.half.data(),
                    packed.fraction.data(),
                    packed.power.data(),
                    from.zero,
                    from.shortcut_zero,
                    from.shortcut_factor,
                    from.product_low,
                    from.product_high,
                    from.product,
                    from.shortcut,
                    from.total,
                    packed.near,
                    nullptr,
                    from.float_scale};
}

template <class T>
Matmul<T> dense_matmul(const Matrix<T>& matrix, const T* in, int channels, int pixels, T* out, float low, float high) {
  Matmul<T> job{};
  job.in = in;
  job.in_pixel = channels;
  job.row_count = 1;
  job.segment_count = 1;
  job.depth = matrix.depth;
  job.pixels = pixels;
  job.panels = matrix.panels.data();
  job.panel_count = static_cast<int>(matrix.panels.size());
  job.weights = matrix.weights.data();
  job.bias = matrix.bias.data();
  job.input_factor = matrix.input_factor;
  job.tail = matrix.tail;
  job.in_order = matrix.in_order;
  job.channels = matrix.channels;
  job.shortcut_pixel = matrix.channels;
  job.out = out;
  job.out_pixel = matrix.channels;
  job.out_block = BLOCK;
  job.low = low;
  job.high = high;
  if constexpr (sizeof(T) == 1) set_rounding(job, matrix);
  return job;
}

template <class T>
Matmul<T> blocked_matmul(const Matrix<T>& matrix, const T* in, std::ptrdiff_t in_block, int pixels, float low,
                         float high) {
  Matmul<T> job = dense_matmul(matrix, in, BLOCK, pixels, static_cast<T*>(nullptr), low, high);
  job.in_segment = in_block;
  job.segment_count = matrix.depth / BLOCK;
  job.depth = BLOCK;
  return job;
}

// One panel of one of the `parts` of the pixels.
template <class T>
void run_part(const Run<T>& run, const Matrix<T>& matrix, const Matmul<T>& job, int parts, int task, int slot) {
  const int part = task / job.panel_count;
  const auto edge = [&](int i) { return static_cast<std::ptrdiff_t>(job.pixels) * i / parts; };
  Matmul<T> piece = job;
  piece.in += edge(part) * job.in_pixel;
  if (job.out) piece.out += edge(part) * job.out_pixel;
  if (job.shortcut) piece.shortcut += edge(part) * job.shortcut_pixel;
  if (job.requantize.floats) piece.requantize.floats += edge(part) * job.out_pixel;
  piece.pixels = static_cast<int>(edge(part + 1) - edge(part));
  piece.panels = job.panels + task % job.panel_count;
  piece.panel_count = 1;
  run.ahead[slot].fetch(matrix, piece);
  run.network.kernels().matmul(piece);
}

// Whether threads that take as many panels each write to cache lines of their own.
template <class T>
bool has_whole_lines(const Matrix<T>& matrix, int hands) {
  const auto ends = [](int channel) { return static_cast<std::size_t>(channel) * sizeof(T) % LINE_BYTES == 0; };
  const int each = static_cast<int>(matrix.panels.size()) / hands;
  for (int i = 0; i < hands; i++) {
    if (!ends(matrix.panels[static_cast<std::size_t>(i * each)].channel)) return false;
  }
  return ends(matrix.channels);
}

template <class T>
void parallel_matmul(const Run<T>& run, const Step& step, const Matrix<T>& matrix,
                     Matmul<T> (*make)(const Run<T>&, const Step&)) {
  const Matmul<T> job = make(run, step);
  const int hands = run.hands(step);
  const bool by_panels = job.panel_count % hands == 0 && has_whole_lines(matrix, hands);
  const int parts = by_panels ? 1 : std::clamp(job.pixels / PART_PIXELS, 1, hands);
  const int count = parts * job.panel_count;
  if (hands == 1) {
    for (int task = 0; task < count; task++) run_part(run, matrix, job, parts, task, 0);
    return;
  }
  run.pool->parallel(count, [&run, &step, &matrix, make, parts](int task, int slot) {
    run_part(run, matrix, make(run, step), parts, task, slot);
  });
}

template <class T>
Depthwise<T> depthwise_job(const DepthwiseWeights<T>& weights, const Stage& stage) {
  Depthwise<T> job{};
  job.in_width = stage.in_width;
  job.out_width = stage.out_width;
  job.stride = stage.stride;
  job.dilation = stage.dilation;
  job.left = stage.left;
  job.blocks = weights.channels / BLOCK;
  job.weights = weights.weights.data();
  job.weight_row = weights.channels;
  job.weight_block = sizeof(T) == 1 ? 12 * BLOCK * weights.copies : BLOCK;
  job.bias = weights.bias.data();
  job.low = stage.wide_low;
  job.high = stage.wide_high;
  job.copies = weights.copies;
  job.zero = weights.rounding.input_zero;
  if constexpr (sizeof(T) == 1) set_rounding(job, weights);
  return job;
}

#define MNV2_INSTANTIATE(T)                                                                            \
  template std::size_t scratch_size<T>(const Network<T>&, const Step&);                                \
  template void execute<T>(const Run<T>&);                                                             \
  template class Ahead<T>;                                                                             \
  template Matmul<T> dense_matmul<T>(const Matrix<T>&, const T*, int, int, T*, float, float);          \
  template Matmul<T> blocked_matmul<T>(const Matrix<T>&, const T*, std::ptrdiff_t, int, float, float); \
  template void parallel_matmul<T>(const Run<T>&, const Step&, const Matrix<T>&,                       \
                                   Matmul<T> (*)(const Run<T>&, const Step&));                         \
  template Depthwise<T> depthwise_job<T>(const DepthwiseWeights<T>&, const Stage&);
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
