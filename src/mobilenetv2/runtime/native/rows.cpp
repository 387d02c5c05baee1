// Stages over strips of rows: the wide tensor of an inverted residual exists only as the rows that the strip at hand
// needs, and where stages are chained, so do the tensors between them.

#include <algorithm>
#include <cstring>

#include "dialect.hpp"
#include "execute.hpp"
#include "pixels.hpp"

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

std::size_t elements(int rows, int width, int channels) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(width) * static_cast<std::size_t>(channels);
}

// The buffers of one stage, in elements.
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
  std::size_t total() const { return up_to_line<T>(ring + wide + incoming + row_pointers); }
};

// The first stage's input: one image, and the rows on either side of a band where another band may have overwritten
// them already.
template <class T>
struct Input {
  const T* image;  // null for the caller's own image
  int begin, end;  // rows outside come from `above` and `below`
  const T *above, *below;
};

// One stage at work on one band of one image. Its rows are produced from the top down, each once.
template <class T>
class Worker {
 public:
  // `floats`: row 0 of the output, where a stage over bytes makes floats; else null.
  Worker(const Run<T>& run, const Stage& stage, Worker* source, int image, const Input<T>& input, T*& scratch,
         float* floats)
      : run_(run), stage_(stage), source_(source), image_(image), input_(input), floats_(floats) {
    const Room<T> room(stage, source != nullptr);
    capacity_ = std::min(reach(stage, stage.strip), stage.in_height);
    const int maker = source && stage.expand < 0 ? source->conv_handle() : stage.expand;
    const bool fours = stage.conv < 0 && in_fours(run.network, stage, maker);
    ring_ = {scratch, BLOCK, 0, fours ? stage.in_width : 0};
    ring_.block = capacity_ * ring_.row(stage.in_width);
    wide_ = scratch + room.ring;
    incoming_ = wide_ + room.wide;
    rows_ = reinterpret_cast<const T**>(incoming_ + room.incoming);
    scratch += room.total();
  }

  // Writes output rows y to y + count - 1.
  void produce(int y, int count, const Pixels<T>& out) {
    for (int done = 0; done < count; done += stage_.strip) {
      const int rows = std::min(stage_.strip, count - done);
      const Pixels<T> to{out.data + done * out.row(stage_.out_width), out.pixel, out.block, out.fours_width};
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
    Matmul<T> product = blocked_matmul(run_.network.matrix(stage_.project), wide_, job.out_block,
                                       count * stage_.out_width, stage_.low, stage_.high);
    write_to(product, out, y);
    if (stage_.shortcut) product.shortcut = input_.image + elements(y, stage_.in_width, stage_.in_channels);
    run_.network.kernels().matmul(product);
  }

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
        const T* in = incoming_;
        if (source_) {
          source_->produce(from, count, {incoming_, stage_.in_channels, BLOCK});
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
          run_.network.kernels().matmul(product);
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
    if (floats_) job.requantize.floats = floats_ + elements(y, stage_.out_width, stage_.out_channels);
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
    if (floats_) job.requantize.floats += stage_.out_width * stage_.out_channels;
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
    const std::size_t row = elements(y, stage_.in_width, channels);
    const std::size_t offset =
        row + elements(stage_.in_height, stage_.in_width, channels) * static_cast<std::size_t>(image_);
    to += stage_.left * channels;
    if (pixels) {
      convert(run_.images.pixels + offset, count, to);
      const int next = y + reach(stage_, stage_.strip);
      if (next < stage_.in_height) fetch(run_.images.pixels + offset + elements(next - y, stage_.in_width, channels));
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
  const Stage& stage_;
  Worker* source_;
  int image_;
  const Input<T> input_;  // nothing where there is a source
  float* const floats_;
  Pixels<T> ring_;
  T *wide_, *incoming_;
  const T** rows_;
  int capacity_;
  int have_ = -1;  // rows before this one are in the ring, or no longer needed
};

// Runs stages[index..] on top of `source`; the last one writes to `out`.
template <class T>
void chain(const Run<T>& run, const Step& step, std::size_t index, Worker<T>* source, int image, const Input<T>& input,
           T* scratch, int begin, int end, T* out, float* floats) {
  const Stage& stage = step.stages[index];
  const bool last = index + 1 == step.stages.size();
  Worker<T> worker(run, stage, source, image, source ? Input<T>{} : input, scratch, last ? floats : nullptr);
  if (!last) {
    chain(run, step, index + 1, &worker, image, input, scratch, begin, end, out, floats);
  } else {
    worker.produce(begin, end - begin, {out, stage.out_channels, BLOCK});
  }
}

}  // namespace

template <class T>
std::size_t rows_scratch_size(const Step& step) {
  std::size_t total = 0;
  for (const Stage& stage : step.stages) total += Room<T>(stage, &stage != &step.stages.front()).total();
  return total;
}

template <class T>
void run_rows(const Run<T>& run, const Step& step) {
  const Stage& first = step.stages.front();
  const Stage& last = step.stages.back();
  const int threads = run.pool->threads();
  const int bands = run.images.count % threads == 0 ? 1 : std::min(threads, last.out_height);
  const auto in_rows = [&](int rows) { return elements(rows, first.in_width, first.in_channels); };
  const auto edge = [&](int i) { return static_cast<int>(static_cast<long long>(last.out_height) * i / bands); };
  const bool from_caller = step.inputs[0] == IMAGE;
  const T* const input = from_caller ? nullptr : run.tensor(step.inputs[0]);
  const bool to_floats = makes_floats(run.network, step);
  T* const output = to_floats ? nullptr : run.tensor(step.output);

  // In place, a band overwrites what its neighbours still need: halo_rows above and below each edge between bands.
  const bool in_place = input == output;
  const int halo = in_place ? halo_rows(first) : 0;
  const auto kept = [&](int image, int band) {
    return run.tensor(step.scratch) + in_rows(2 * halo * (image * (bands - 1) + band));
  };
  for (int image = 0; in_place && image < run.images.count; image++) {
    for (int band = 0; band + 1 < bands; band++) {
      const int from = std::max(edge(band + 1) - halo, 0), to = std::min(edge(band + 1) + halo, first.in_height);
      std::memcpy(kept(image, band) + in_rows(from - (edge(band + 1) - halo)),
                  input + in_rows(image * first.in_height + from), in_rows(to - from) * sizeof(T));
    }
  }

  run.pool->parallel(run.images.count * bands, [&](int task, int slot) {
    const int image = task / bands, band = task % bands;
    Input<T> rows{input, 0, first.in_height, nullptr, nullptr};
    if (input) rows.image += in_rows(image * first.in_height);
    if (in_place && band > 0) {
      rows.begin = edge(band);
      rows.above = kept(image, band - 1);
    }
    if (in_place && band + 1 < bands) {
      rows.end = edge(band + 1);
      rows.below = kept(image, band) + in_rows(halo);
    }
    const auto place = [&](int y) { return elements(image * last.out_height + y, last.out_width, last.out_channels); };
    T* const out = output ? output + place(edge(band)) : nullptr;
    float* const floats = to_floats ? run.floats(step.output) + place(0) : nullptr;
    chain<T>(run, step, 0, nullptr, image, rows, run.scratch_of(slot), edge(band), edge(band + 1), out, floats);
  });
}

#define MNV2_INSTANTIATE(T)                               \
  template std::size_t rows_scratch_size<T>(const Step&); \
  template void run_rows<T>(const Run<T>&, const Step&);
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
