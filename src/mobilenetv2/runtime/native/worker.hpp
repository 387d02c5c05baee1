// One stage at work on strips of rows.
#pragma once

#include <algorithm>
#include <cstring>

#include "dialect.hpp"
#include "execute.hpp"
#include "pixels.hpp"
#include "stripes.hpp"

namespace mobilenetv2 {
namespace {

// Rows of input that `rows` output rows of a stage read.
int reach(const Stage& stage, int rows) { return (rows - 1) * stage.stride + (stage.kernel - 1) * stage.dilation + 1; }

// Columns of an input row with its padding.
int padded_width(const Stage& stage) {
  const int needed = (stage.out_width - 1) * stage.stride + (stage.kernel - 1) * stage.dilation + 1;
  return std::max(needed, stage.left + stage.in_width);
}

// Whether the taps of each output pixel are copied side by side, a kernel row at a time: dilated, over bytes, where a
// segment is a multiple of four.
template <class T>
bool gathers(const Stage& stage) {
  return sizeof(T) == 1 && stage.dilation > 1;
}

// Rows of input beyond a band of output rows of the same number that a stage without stride reads.
int halo_rows(const Stage& stage) { return stage.dilation; }

// Columns of input that a stripe keeps for the next one.
int edge_columns(const Stage& stage) {
  return stage.expand < 0 ? 0 : std::max((stage.kernel - 1) * stage.dilation + 1 - stage.stride, 0);
}

std::size_t elements(int rows, int width, int channels) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(width) * static_cast<std::size_t>(channels);
}

// The buffers of one stage, in elements. `wide` is used by one stage at a time.
template <class T>
struct Room {
  std::size_t ring, wide, incoming, row_pointers;

  Room(const Stage& stage, bool chained) : ring(0), wide(0), incoming(0), row_pointers(0) {
    const int rows = reach(stage, stage.strip);
    if (stage.conv >= 0) {
      const int kept = gathers<T>(stage) ? stage.kernel : rows;
      ring =
          elements(kept, gathers<T>(stage) ? stage.out_width * stage.kernel : padded_width(stage), stage.in_channels);
      return;
    }
    const int kept = std::min(rows, stage.in_height);
    ring = elements(kept, sizeof(T) == 1 ? up_to_four(stage.in_width) : stage.in_width, stage.wide_channels);
    if (stage.expand >= 0 && chained) incoming = up_to_line<T>(elements(kept, stage.in_width, stage.in_channels));
    wide = elements(stage.strip, stage.out_width, stage.wide_channels);
    row_pointers = static_cast<std::size_t>(rows) * sizeof(const T*) / sizeof(T);
  }
  std::size_t kept() const { return up_to_line<T>(ring + incoming + row_pointers); }
};

// The first stage's input: one image, and the rows on either side of a band where another band may have overwritten
// them already.
template <class T>
struct Input {
  const T* image;  // null for the caller's own image
  int begin, end;  // rows outside come from `above` and `below`
  const T *above, *below;
  int column, width;  // of the image: the first that is read, and all of them
};

// One stage at work on one band of one image. Its rows are produced from the top down, each once.
template <class T>
class Worker {
 public:
  // `floats`: row 0 of the output, where a stage over bytes makes floats; else null.
  // `scratch`: moves behind what the worker keeps.
  Worker(const Run<T>& run, const Stage& stage, const Columns& columns, Worker* source, int image,
         const Input<T>& input, Ahead<T>& ahead, T* wide, T* edges, T*& scratch, float* floats)
      : run_(run),
        ahead_(ahead),
        stage_(stage),
        columns_(columns),
        source_(source),
        image_(image),
        input_(input),
        floats_(floats) {
    const Room<T> room(stage, source != nullptr);
    capacity_ = std::min(reach(stage, stage.strip), stage.in_height);
    const int maker = source && stage.expand < 0 ? source->conv_handle() : stage.expand;
    const bool fours = stage.conv < 0 && in_fours(run.network, stage, maker);
    ring_ = {scratch, BLOCK, 0, fours ? stage.in_width : 0};
    ring_.block = capacity_ * ring_.row(stage.in_width);
    wide_ = wide;
    edges_ = edges;
    incoming_ = scratch + room.ring;
    rows_ = reinterpret_cast<const T**>(incoming_ + room.incoming);
    scratch += room.kept();
  }

  // Writes output rows y to y + count - 1.
  void produce(int y, int count, const Pixels<T>& out) {
    for (int done = 0; done < count; done += stage_.strip) {
      const int rows = std::min(stage_.strip, count - done);
      Pixels<T> to = out;
      to.data += done * out.row(stage_.out_width);
      if (stage_.conv >= 0) {
        convolve(y + done, rows, to);
      } else {
        invert(y + done, rows, to);
      }
    }
  }

 private:
  // The inverted residual.
  void invert(int y, int count, const Pixels<T>& out) {
    const int begin = y * stage_.stride - stage_.top;
    const int end = begin + reach(stage_, count);
    const int needed = std::min(end, stage_.in_height);
    fill(std::max({have_, begin, 0}), needed);
    have_ = needed;
    for (int row = begin; row < end; row++) {
      rows_[row - begin] = row < 0 || row >= stage_.in_height ? nullptr : ring_row(row).data;
    }
    Depthwise<T> job = depthwise_job(run_.network.depthwise(stage_.depthwise), stage_);
    job.rows = rows_;
    job.fours = ring_.fours_width > 0;
    job.in_block = ring_.block;
    job.out_rows = count;
    job.out = wide_;
    job.out_block = static_cast<std::ptrdiff_t>(elements(count, stage_.out_width, BLOCK));
    run_.network.kernels().depthwise(job);
    if (stage_.project < 0) {
      from_blocks(wide_, job.out_block, count * stage_.out_width, stage_.out_channels, out);
      return;
    }
    const Matrix<T>& project = run_.network.matrix(stage_.project);
    Matmul<T> product =
        blocked_matmul(project, wide_, job.out_block, count * stage_.out_width, stage_.low, stage_.high);
    write_to(product, out, y);
    const bool rows_apart = out.row_pixels || (stage_.shortcut && source_);
    if (!rows_apart) {
      if (stage_.shortcut) product.shortcut = input_.image + elements(y, stage_.in_width, stage_.in_channels);
      multiply(project, product);
      return;
    }
    product.pixels = stage_.out_width;
    for (int row = y; row < y + count; row++) {
      if (stage_.shortcut) product.shortcut = incoming_row(row) + columns_.shortcut * stage_.in_channels;
      multiply(project, product);
      product.in += stage_.out_width * BLOCK;
      next_row(product, out);
    }
  }

  void multiply(const Matrix<T>& matrix, Matmul<T>& job) const {
    ahead_.fetch(matrix, job);
    run_.network.kernels().matmul(job);
  }

  // Lets the stage before make rows, all but the columns that the last stripe has made.
  void take_rows(int y, int count) {
    const int channels = stage_.in_channels;
    T* const first = incoming_row(y);
    source_->produce(y, count,
                     {first + columns_.copied * channels, channels, BLOCK, 0, columns_.copied ? stage_.in_width : 0});
    const std::size_t copied = elements(1, columns_.copied, channels), kept = elements(1, columns_.kept, channels);
    for (int row = y; row < y + count; row++) {
      T* const edge = edges_ + elements(row, edge_columns(stage_), channels);
      T* const to = incoming_row(row);
      std::copy(edge, edge + copied, to);
      std::copy(to + elements(1, stage_.in_width, channels) - kept, to + elements(1, stage_.in_width, channels), edge);
    }
  }

  // The stage before made it; it stays as long as its wide row in the ring.
  T* incoming_row(int y) const { return incoming_ + elements(y % capacity_, stage_.in_width, stage_.in_channels); }

  // Row y lies at y % capacity_.
  Pixels<T> ring_row(int y) const {
    return {ring_.data + y % capacity_ * ring_.row(stage_.in_width), ring_.pixel, ring_.block, ring_.fours_width};
  }

  // Makes wide input rows in the ring.
  void fill(int from, int to) {
    while (from < to) {
      int count = std::min(to - from, capacity_ - from % capacity_);
      const Pixels<T> target = ring_row(from);
      if (stage_.expand < 0 && source_) {
        source_->produce(from, count, target);
      } else {
        const T* in = incoming_row(from);
        if (source_) {
          take_rows(from, count);
        } else {
          in = input_rows(from, count);
        }
        const int pixels = count * stage_.in_width;
        if (stage_.expand < 0) {
          to_blocks(in, pixels, stage_.in_channels, target);
        } else {
          Matmul product = dense_matmul(run_.network.matrix(stage_.expand), in, stage_.in_channels, pixels,
                                        static_cast<T*>(nullptr), stage_.wide_low, stage_.wide_high);
          write_to(product, target, from);
          multiply(run_.network.matrix(stage_.expand), product);
        }
      }
      from += count;
    }
  }

  // Input rows from y on, of which there are at most `count` together.
  const T* input_rows(int y, int& count) const {
    const auto row = [&](int i) { return elements(i, stage_.in_width, stage_.in_channels); };
    if (y >= input_.end) return input_.below + row(y - input_.end);
    count = std::min(count, (y < input_.begin ? input_.begin : input_.end) - y);
    if (y < input_.begin) return input_.above + row(halo_rows(stage_) - (input_.begin - y));
    return input_.image + row(y);
  }

  // `y`: the output row that `out` begins with.
  void write_to(Matmul<T>& job, const Pixels<T>& out, int y) const {
    job.out = out.data;
    job.out_pixel = out.pixel;
    job.out_block = out.block;
    job.fours_width = out.fours_width;
    if (floats_) job.requantize.floats = floats_ + y * out.row(stage_.out_width);
  }

  // The k x k convolution over rows with their padding; pixels that touch in memory make one segment of a kernel row.
  void convolve(int y, int count, const Pixels<T>& out) {
    if (gathers<T>(stage_)) return convolve_gathered(y, count, out);
    const int width = padded_width(stage_), channels = stage_.in_channels, kernel = stage_.kernel;
    const std::ptrdiff_t row_floats = static_cast<std::ptrdiff_t>(width) * channels;
    for (int i = 0; i < reach(stage_, count); i++) {
      padded_row(y * stage_.stride - stage_.top + i, ring_.data + i * row_floats);
    }
    const Matrix<T>& matrix = run_.network.matrix(conv_handle());
    Matmul<T> job = dense_matmul(matrix, static_cast<const T*>(nullptr), channels, stage_.out_width,
                                 static_cast<T*>(nullptr), stage_.low, stage_.high);
    write_to(job, out, y);
    job.in_pixel = static_cast<std::ptrdiff_t>(stage_.stride) * channels;
    job.in_row = stage_.dilation * row_floats;
    job.in_segment = static_cast<std::ptrdiff_t>(stage_.dilation) * channels;
    const bool touching = stage_.dilation == 1;
    job.row_count = kernel;
    job.segment_count = touching ? 1 : kernel;
    job.depth = matrix.depth / kernel / (touching ? 1 : kernel);
    for (int row = 0; row < count; row++) {
      job.in = ring_.data + row * stage_.stride * row_floats;
      run_.network.kernels().matmul(job);
      next_row(job, out);
    }
  }

  // The matrix that the k x k convolution multiplies by, if there is one.
  int conv_handle() const { return !input_.image && run_.images.pixels ? stage_.conv_pixels : stage_.conv; }

  void next_row(Matmul<T>& job, const Pixels<T>& out) const {
    job.out += out.row(stage_.out_width);
    if (floats_) job.requantize.floats += out.row(stage_.out_width);
  }

  // The dilated k x k convolution over bytes: kernel rows whose taps were copied side by side.
  void convolve_gathered(int y, int count, const Pixels<T>& out) {
    const int kernel = stage_.kernel;
    const std::ptrdiff_t row_size = static_cast<std::ptrdiff_t>(stage_.out_width) * kernel * stage_.in_channels;
    const Matrix<T>& matrix = run_.network.matrix(stage_.conv);
    Matmul<T> job = dense_matmul(matrix, static_cast<const T*>(nullptr), kernel * stage_.in_channels, stage_.out_width,
                                 static_cast<T*>(nullptr), stage_.low, stage_.high);
    write_to(job, out, y);
    job.in = ring_.data;
    job.in_row = row_size;
    job.row_count = kernel;
    job.depth = matrix.depth / kernel;
    for (int row = 0; row < count; row++) {
      for (int i = 0; i < kernel; i++) {
        gathered_row((y + row) * stage_.stride - stage_.top + i * stage_.dilation, ring_.data + i * row_size);
      }
      run_.network.kernels().matmul(job);
      next_row(job, out);
    }
  }

  // The taps of input row y under each output pixel; those outside the image are the zero point.
  void gathered_row(int y, T* to) const {
    const int channels = stage_.in_channels;
    const T outside = outside_value();
    const bool inside = y >= 0 && y < stage_.in_height;
    const T* const row = input_.image + elements(inside ? y : 0, stage_.in_width, channels);
    for (int x = 0; x < stage_.out_width; x++) {
      for (int tap = 0; tap < stage_.kernel; tap++, to += channels) {
        const int column = x * stage_.stride - stage_.left + tap * stage_.dilation;
        if (inside && column >= 0 && column < stage_.in_width) {
          std::memcpy(to, row + column * channels, static_cast<std::size_t>(channels) * sizeof(T));
        } else {
          std::fill(to, to + channels, outside);
        }
      }
    }
  }

  // What a pixel outside a tensor counts as.
  T outside_value() const { return from_float<T>(run_.network.matrix(stage_.conv).rounding.input_zero); }

  // Input row y between its paddings; what lies outside the image is the value that stands for zero.
  void padded_row(int y, T* to) const {
    const int channels = stage_.in_channels, width = padded_width(stage_);
    const bool pixels = !input_.image && run_.images.pixels;
    const bool inside = y >= 0 && y < stage_.in_height;
    const T outside = outside_value();
    const int from = inside ? stage_.left : width, until = inside ? stage_.left + stage_.in_width : width;
    for (int x = 0; x < width; x++) {
      if (x == from) x = until;
      for (int c = 0; c < channels && x < width; c++) {
        to[x * channels + c] = pixels ? from_float<T>(run_.network.padding()[static_cast<std::size_t>(c)]) : outside;
      }
    }
    if (!inside) return;
    const std::size_t count = elements(1, stage_.in_width, channels);
    const std::size_t row = elements(y, input_.width, channels) + elements(1, input_.column, channels);
    const std::size_t offset =
        row + elements(stage_.in_height, input_.width, channels) * static_cast<std::size_t>(image_);
    to += stage_.left * channels;
    if (pixels) {
      convert(run_.images.pixels + offset, count, to);
      const int next = y + reach(stage_, stage_.strip);
      if (next < stage_.in_height) fetch(run_.images.pixels + offset + elements(next - y, input_.width, channels));
    } else if (input_.image) {
      std::copy(input_.image + row, input_.image + row + count, to);
    } else if constexpr (sizeof(T) != 1) {
      convert(run_.images.values + offset, count, to);
    }
  }

  // Fetches a row of the image, which may be as far as memory, for the strip after this one.
  void fetch(const std::uint8_t* row) const {
#if defined(__GNUC__)
    const std::size_t size = elements(1, stage_.in_width, stage_.in_channels);
    for (std::size_t i = 0; i < size; i += LINE_BYTES) MNV2_PREFETCH(row + i);
#else
    (void)row;
#endif
  }

  const Run<T>& run_;
  Ahead<T>& ahead_;
  const Stage& stage_;
  const Columns columns_;
  Worker* source_;
  int image_;
  const Input<T> input_;  // nothing where there is a source
  float* const floats_;
  Pixels<T> ring_;
  T *wide_, *edges_, *incoming_;
  const T** rows_;
  int capacity_;
  int have_ = -1;  // rows before this one are in the ring, or no longer needed
};

}  // namespace
}  // namespace mobilenetv2
