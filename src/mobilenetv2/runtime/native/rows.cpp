// Stages over strips of rows: the wide tensor of an inverted residual exists only as the rows that the strip at hand
// needs, and where stages are chained, so do the tensors between them.

#include <algorithm>
#include <cstring>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

// Rows of input that `rows` output rows of a stage read.
int reach(const Stage& stage, int rows) { return (rows - 1) * stage.stride + (stage.kernel - 1) * stage.dilation + 1; }

// Columns of an input row with its padding.
int padded_width(const Stage& stage) {
  const int needed = (stage.out_width - 1) * stage.stride + (stage.kernel - 1) * stage.dilation + 1;
  return std::max(needed, stage.left + stage.in_width);
}

std::size_t floats(int rows, int width, int channels) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(width) * static_cast<std::size_t>(channels);
}

// The buffers of one stage, in floats.
struct Room {
  std::size_t ring, wide, incoming, row_pointers;

  Room(const Stage& stage, bool chained) : ring(0), wide(0), incoming(0), row_pointers(0) {
    const int rows = reach(stage, stage.strip);
    if (stage.conv >= 0) {
      ring = floats(rows, padded_width(stage), stage.in_channels);
      return;
    }
    const int kept = std::min(rows, stage.in_height);
    if (stage.expand >= 0 || chained) ring = floats(kept, stage.in_width, stage.wide_channels);
    if (stage.expand >= 0 && chained) incoming = floats(kept, stage.in_width, stage.in_channels);
    if (stage.project >= 0) wide = floats(stage.strip, stage.out_width, stage.wide_channels);
    row_pointers = static_cast<std::size_t>(rows) * sizeof(const float*) / sizeof(float);
    ring = up_to_line(ring);
    wide = up_to_line(wide);
    incoming = up_to_line(incoming);
  }
  std::size_t total() const { return up_to_line(ring + wide + incoming + row_pointers); }
};

// One stage at work on one band of one picture. Rows are asked for from the top down, each once.
class Worker {
 public:
  Worker(const Run& run, const Stage& stage, Worker* source, int picture, const float* input, float*& scratch)
      : run_(run), stage_(stage), source_(source), picture_(picture), input_(input) {
    const Room room(stage, source != nullptr);
    ring_ = scratch;
    wide_ = ring_ + room.ring;
    incoming_ = wide_ + room.wide;
    rows_ = reinterpret_cast<const float**>(incoming_ + room.incoming);
    capacity_ = std::min(reach(stage, stage.strip), stage.in_height);
    scratch += room.total();
  }

  // Writes output rows y to y + count - 1, dense.
  void produce(int y, int count, float* out) {
    for (int done = 0; done < count; done += stage_.strip) {
      const int rows = std::min(stage_.strip, count - done);
      float* const to = out + floats(done, stage_.out_width, stage_.out_channels);
      if (stage_.conv >= 0) {
        convolve(y + done, rows, to);
      } else {
        invert(y + done, rows, to);
      }
    }
  }

 private:
  // The inverted residual.
  void invert(int y, int count, float* out) {
    const int begin = y * stage_.stride - stage_.top;
    const int end = begin + reach(stage_, count);
    if (stage_.expand >= 0 || source_) {
      const int needed = std::min(end, stage_.in_height);
      fill(std::max({have_, begin, 0}), needed);
      have_ = needed;
    }
    for (int row = begin; row < end; row++)
      rows_[row - begin] = row < 0 || row >= stage_.in_height ? nullptr : wide_row(row);
    Depthwise job = depthwise_job(run_.network.depthwise(stage_.depthwise), stage_);
    job.rows = rows_;
    job.out_rows = count;
    job.out = stage_.project >= 0 ? wide_ : out;
    run_.network.kernels().depthwise(job);
    if (stage_.project < 0) return;
    const Matrix& project = run_.network.matrix(stage_.project);
    Matmul product = dense_matmul(project, wide_, count * stage_.out_width, out, stage_.low, stage_.high);
    if (stage_.shortcut) product.shortcut = input_ + floats(y, stage_.in_width, stage_.in_channels);
    run_.network.kernels().matmul(product);
  }

  const float* wide_row(int row) const {
    if (stage_.expand < 0 && !source_) return input_ + floats(row, stage_.in_width, stage_.in_channels);
    return ring_ + floats(row % capacity_, stage_.in_width, stage_.wide_channels);
  }

  // Expands input rows into the ring, whose row y lies at y % capacity_.
  void fill(int from, int to) {
    while (from < to) {
      const int count = std::min(to - from, capacity_ - from % capacity_);
      float* const target = ring_ + floats(from % capacity_, stage_.in_width, stage_.wide_channels);
      if (stage_.expand < 0) {
        source_->produce(from, count, target);
      } else {
        const float* in = incoming_;
        if (source_) {
          source_->produce(from, count, incoming_);
        } else {
          in = input_ + floats(from, stage_.in_width, stage_.in_channels);
        }
        const Matrix& expand = run_.network.matrix(stage_.expand);
        run_.network.kernels().matmul(
            dense_matmul(expand, in, count * stage_.in_width, target, stage_.wide_low, stage_.wide_high));
      }
      from += count;
    }
  }

  // The k x k convolution over rows with their padding; pixels that touch in memory make one segment of a kernel row.
  void convolve(int y, int count, float* out) {
    const int width = padded_width(stage_), channels = stage_.in_channels, kernel = stage_.kernel;
    const std::ptrdiff_t row_floats = static_cast<std::ptrdiff_t>(width) * channels;
    for (int i = 0; i < reach(stage_, count); i++) {
      padded_row(y * stage_.stride - stage_.top + i, ring_ + i * row_floats);
    }
    const bool pixels = !input_ && run_.images.pixels;
    const Matrix& matrix = run_.network.matrix(pixels ? stage_.conv_pixels : stage_.conv);
    std::ptrdiff_t segments[9];
    Matmul job = dense_matmul(matrix, nullptr, stage_.out_width, nullptr, stage_.low, stage_.high);
    const bool touching = stage_.dilation == 1;
    job.segments = segments;
    job.segment_count = touching ? kernel : kernel * kernel;
    job.depth = touching ? kernel * channels : channels;
    for (int s = 0; s < job.segment_count; s++) {
      const int row = touching ? s : s / kernel, column = touching ? 0 : s % kernel;
      segments[s] = row * stage_.dilation * row_floats + column * stage_.dilation * channels;
    }
    job.in_pixel = static_cast<std::ptrdiff_t>(stage_.stride) * channels;
    for (int row = 0; row < count; row++) {
      job.in = ring_ + row * stage_.stride * row_floats;
      job.out = out + floats(row, stage_.out_width, stage_.out_channels);
      run_.network.kernels().matmul(job);
    }
  }

  // Input row y as floats between its paddings; what lies outside the picture is the value that stands for zero.
  void padded_row(int y, float* to) const {
    const int channels = stage_.in_channels, width = padded_width(stage_);
    const bool pixels = !input_ && run_.images.pixels;
    const bool inside = y >= 0 && y < stage_.in_height;
    const int from = inside ? stage_.left : width, until = inside ? stage_.left + stage_.in_width : width;
    for (int x = 0; x < width; x++) {
      if (x == from) x = until;
      for (int c = 0; c < channels && x < width; c++) {
        to[x * channels + c] = pixels ? run_.network.padding()[static_cast<std::size_t>(c)] : 0.0f;
      }
    }
    if (!inside) return;
    const std::size_t count = floats(1, stage_.in_width, channels);
    const std::size_t offset =
        floats(y, stage_.in_width, channels) +
        (input_ ? 0 : floats(stage_.in_height, stage_.in_width, channels) * static_cast<std::size_t>(picture_));
    to += stage_.left * channels;
    if (pixels) {
      const std::uint8_t* row = run_.images.pixels + offset;
      for (std::size_t i = 0; i < count; i++) to[i] = static_cast<float>(row[i]);
    } else {
      std::memcpy(to, (input_ ? input_ : run_.images.values) + offset, count * sizeof(float));
    }
  }

  const Run& run_;
  const Stage& stage_;
  Worker* source_;
  int picture_;
  const float* input_;  // this picture's; null for the caller's own picture, or where there is a source
  float *ring_, *wide_, *incoming_;
  const float** rows_;
  int capacity_;
  int have_ = -1;  // rows before this one are in the ring, or no longer needed
};

// Runs stages[index..] on top of `source`; the last one writes to `out`.
void chain(const Run& run, const Step& step, std::size_t index, Worker* source, int picture, const float* input,
           float* scratch, int begin, int end, float* out) {
  Worker worker(run, step.stages[index], source, picture, source ? nullptr : input, scratch);
  if (index + 1 < step.stages.size()) {
    chain(run, step, index + 1, &worker, picture, input, scratch, begin, end, out);
  } else {
    worker.produce(begin, end - begin, out);
  }
}

}  // namespace

std::size_t rows_scratch_floats(const Step& step) {
  std::size_t total = 0;
  for (const Stage& stage : step.stages) total += Room(stage, &stage != &step.stages.front()).total();
  return total;
}

void run_rows(const Run& run, const Step& step) {
  const Stage& first = step.stages.front();
  const Stage& last = step.stages.back();
  const int threads = run.pool->threads();
  const int bands = run.images.count % threads == 0 ? 1 : std::min(threads, last.out_height);
  const std::size_t in_floats = floats(first.in_height, first.in_width, first.in_channels);
  const std::size_t out_floats = floats(last.out_height, last.out_width, last.out_channels);
  const bool from_caller = step.inputs[0] == IMAGE;
  const float* const input = from_caller ? nullptr : run.tensor(step.inputs[0]);
  float* const output = run.tensor(step.output);
  run.pool->parallel(run.images.count * bands, [&](int task, int slot) {
    const int picture = task / bands, band = task % bands;
    const auto edge = [&](int i) { return static_cast<int>(static_cast<long long>(last.out_height) * i / bands); };
    const std::size_t at = static_cast<std::size_t>(picture);
    chain(run, step, 0, nullptr, picture, from_caller ? nullptr : input + at * in_floats, run.scratch_of(slot),
          edge(band), edge(band + 1), output + at * out_floats + floats(edge(band), last.out_width, last.out_channels));
  });
}

}  // namespace mobilenetv2
