#include "network.hpp"

#include <algorithm>
#include <cstdlib>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "check.hpp"
#include "cpu.hpp"
#include "execute.hpp"

namespace mobilenetv2 {
namespace {

constexpr char OUT_OF_RANGE[] = "a factor is out of range";

// Whether products of factors stay numbers: not NaN, and far from infinity.
bool is_moderate(double factor) { return factor >= -1e19 && factor <= 1e19; }

constexpr std::size_t KEPT_BYTES = std::size_t{64} << 20;  // larger workspaces are freed after the call

constexpr int FOURS_DEPTH = 256;  // of a product whose panels are as narrow as fours need them

// Of floats half of a vector is a panel of its own, which costs more than it saves beside more of them.
constexpr int VECTORS_WITH_HALF = 4;

// Vectors of the next panel: as wide as the target goes, but never leaving a lone vector after a wide panel.
int next_panel(int vectors_left, int widest) {
  if (vectors_left == widest + 1 && widest > 2) return widest - 1;
  return std::min(vectors_left, widest);
}

// A weight as it is packed.
template <class Weight, class Given>
Weight stored(Given weight) {
  if constexpr (std::is_same_v<Weight, bfloat16>) {
    return from_float<bfloat16>(weight);
  } else {
    return weight;
  }
}

template <class N>
Buffer<N> copied(const N* numbers, std::size_t count) {
  if (!numbers) return {};
  Buffer<N> buffer(count);
  std::copy(numbers, numbers + count, buffer.data());
  return buffer;
}

// `count` numbers in the order of their indices; zeros for indices beyond, nothing where there are no numbers.
template <class N>
Buffer<N> in_order(const N* numbers, int count, const std::vector<int>& order) {
  if (!numbers) return {};
  Buffer<N> buffer(order.size());
  for (std::size_t i = 0; i < order.size(); i++) buffer.data()[i] = order[i] < count ? numbers[order[i]] : N{};
  return buffer;
}

template <class Packed>
std::size_t bytes_of(const Packed& packed) {
  return packed.weights.size() * sizeof(*packed.weights.data()) + packed.bias.size() * sizeof(*packed.bias.data()) +
         (packed.factor.size() + packed.half.size()) * sizeof(float) +
         (packed.fraction.size() + packed.power.size()) * sizeof(double);
}

// What a bias is where inputs are taken less `offset`: modulo 2**32, as sums.
template <class N>
void add_offset(N& bias, int offset, N sum_of_weights) {
  using Bits = std::uint32_t;
  bias = static_cast<N>(static_cast<Bits>(bias) + static_cast<Bits>(offset) * static_cast<Bits>(sum_of_weights));
}

// What the modes that round twice come to in float32, see Near and rounding.hpp: with a power of two below 1, half of
// it is added, away from 0.
template <class Packed>
void set_near(Packed& packed) {
  const Rounding& to = packed.rounding;
  const std::size_t count = packed.fraction.size();
  if (to.mode != RoundingMode::TWICE && to.mode != RoundingMode::TWICE_NON_NEGATIVE) return;
  packed.factor = Buffer<float>(count);
  packed.half = Buffer<float>(count);
  for (std::size_t i = 0; i < count; i++) {
    const double fraction = packed.fraction.data()[i], power = packed.power.data()[i];
    const bool whole = to.mode == RoundingMode::TWICE_NON_NEGATIVE;
    const double half = whole ? power - 0.5 : power < 1 ? power / 2 : 0.0;
    packed.factor.data()[i] = static_cast<float>(whole ? fraction : fraction * power);
    packed.half.data()[i] = fraction == 0.0 ? 0.0f : static_cast<float>(half);
  }
  // Results are within 256: float32 is off by less than four times half of its last place there.
  const double total = to.total.fraction * to.total.power * ADD_UNITS;
  const double product = to.product.fraction * to.product.power * total;
  const double shortcut = to.shortcut.fraction * to.shortcut.power * total;
  double margin = 0x1p-14;
  if (to.product_high > to.product_low) {
    margin = 0x1p-13 * std::max({1.0, product, shortcut}) + to.total.power + 3 * total / ADD_UNITS;
  }
  packed.near = {0.5f - static_cast<float>(margin), static_cast<float>(product), static_cast<float>(shortcut)};
}

}  // namespace

Reserve::~Reserve() { std::free(memory_); }

void Reserve::set_size(std::size_t bytes) {
#if defined(__linux__)
  constexpr std::size_t LARGE_PAGE = std::size_t{2} << 20;
  void* memory = nullptr;
  if (bytes < LARGE_PAGE || posix_memalign(&memory, LARGE_PAGE, bytes)) return;
  madvise(memory, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);  // small pages do as well
  memory_ = static_cast<unsigned char*>(memory);
  size_ = bytes;
#else
  static_cast<void>(bytes);
#endif
}

unsigned char* Reserve::take(std::size_t bytes) {
  bytes = (bytes + 2 * LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;  // and a line to spare
  if (bytes > size_ - taken_) return nullptr;
  unsigned char* const place = memory_ + taken_;
  taken_ += bytes;
  return place;
}

template <class T>
void Network<T>::reserve(std::size_t weights) {
  reserve_.set_size(weights * sizeof(Weight));
}

template <class T>
Network<T>::Network(const Kernels<T>& kernels, int threads) : kernels_(&kernels), threads_(threads) {
  if (threads == 1) return;
  pool_ = std::make_unique<Pool>(threads);
  threads_ = pool_->threads();
  if (threads_ == 1) pool_.reset();
}

const char* check_rounding(const Rounding& rounding) {
  const auto is_byte = [](float value) { return value >= 0.0f && value <= 255.0f; };
  for (const int zero : {rounding.zero, rounding.input_zero, rounding.shortcut_zero}) {
    if (zero < 0 || zero > 255) return "a zero point is no byte";
  }
  const auto zero = static_cast<float>(rounding.zero);
  const bool bytes = is_to_float(rounding.mode) || (is_byte(rounding.low + zero) && is_byte(rounding.high + zero));
  if (!bytes || !(rounding.low <= rounding.high)) return "the limits of a result are no bytes";
  if (!(rounding.product_low <= rounding.product_high && is_byte(rounding.product_high - rounding.product_low))) {
    return "the limits of a product are no bytes";
  }
  for (const Twice& twice : {rounding.product, rounding.shortcut, rounding.total}) {
    if (!is_moderate(twice.fraction) || !is_moderate(twice.power)) return OUT_OF_RANGE;
  }
  return is_moderate(rounding.shortcut_factor) && is_moderate(rounding.float_scale) ? nullptr : OUT_OF_RANGE;
}

// The factors that the mode has, and no others: what is wrong, or null.
template <class T>
const char* check_factors(const Factors& factors, const Rounding& rounding, int channels) {
  if (sizeof(T) != 1) return nullptr;
  const bool once = is_once(rounding.mode);
  const bool fits = once ? factors.factor && !factors.fraction && !factors.power
                         : !factors.factor && factors.fraction && factors.power;
  if (!fits) return "the factors are not those of the rounding mode";
  const bool unclamped =
      rounding.mode == RoundingMode::ONCE_SATURATING || rounding.mode == RoundingMode::TWICE_NON_NEGATIVE;
  const auto zero = static_cast<float>(rounding.zero);
  if (unclamped && (rounding.low + zero != 0.0f || rounding.high + zero != 255.0f)) {
    return "results that only packing clamps have the limits of a byte";
  }
  if (rounding.mode == RoundingMode::TWICE_NON_NEGATIVE && rounding.zero != 0) {
    return "results that are never negative have the zero point 0";
  }
  for (int c = 0; c < channels; c++) {
    if (once ? !is_moderate(factors.factor[c]) : !is_moderate(factors.fraction[c]) || !is_moderate(factors.power[c])) {
      return OUT_OF_RANGE;
    }
  }
  return check_rounding(rounding);
}

template <class T>
int Network<T>::add_matrix(const Given* weights, const Sum* bias, int channels, int depth, int input_factor, int tail,
                           const Factors& factors, const Rounding& rounding, Problem& problem) {
  constexpr int TOGETHER = Types<T>::TOGETHER;  // inputs in a lane
  problem.what = tail < 0 || tail >= TOGETHER ? "a tail has less inputs than a lane"
                 : depth % TOGETHER != 0      ? "a depth is no whole number of lanes"
                                              : check_factors<T>(factors, rounding, channels);
  const int together = kernels_->together;  // weights in a lane, as they are packed
  if (problem.what) return -1;
  const int lanes = kernels_->lanes;
  const int vectors = (channels + lanes - 1) / lanes, last_lanes = channels - (vectors - 1) * lanes;
  Matrix<T> matrix;
  matrix.channels = channels;
  matrix.depth = depth;
  matrix.input_factor = input_factor;
  matrix.tail = tail;
  matrix.rounding = rounding;
  // Results that packing clamps at 0 are mostly what a depthwise convolution reads. A deep product gains more from wide
  // panels, which read its input less often.
  const bool clamps = rounding.mode == RoundingMode::ONCE_SATURATING && rounding.zero == 0;
  matrix.in_order = kernels_->fours_vectors > 0 && depth <= FOURS_DEPTH && input_factor == 0 &&
                    (clamps || rounding.mode == RoundingMode::TWICE_NON_NEGATIVE);
  const bool ends_with_half = kernels_->half_vectors > 0 && !matrix.in_order && !is_to_float(rounding.mode) &&
                              last_lanes <= lanes / 2 && (sizeof(T) == 1 || vectors <= VECTORS_WITH_HALF);
  const int half_panel = ends_with_half ? std::min(vectors, kernels_->half_vectors) : 0;  // vectors of the last panel
  std::vector<int> order;                                                                 // the channel of each lane
  for (int done = 0; done < vectors;) {
    const int left = vectors - done;
    const bool half = left == half_panel;
    const int width =
        half ? half_panel
             : next_panel(left - half_panel, matrix.in_order ? kernels_->fours_vectors : kernels_->panel_vectors);
    const std::ptrdiff_t before = static_cast<std::ptrdiff_t>(done) * lanes * depth;
    matrix.panels.push_back({done * lanes, width, before, half});
    const bool interleaved =
        kernels_->interleaves && !matrix.in_order && !half && !is_to_float(rounding.mode) && width % 2 == 0;
    for (int i = 0; i < width * lanes; i++) {
      const int vector = i / lanes, lane = i % lanes;
      order.push_back(done * lanes + (interleaved ? lane / 4 * 4 * width + 4 * vector + lane % 4 : i));
    }
    done += width;
  }
  matrix.bias = in_order(bias, channels, order);
  matrix.factor = in_order(factors.factor, channels, order);
  matrix.fraction = in_order(factors.fraction, channels, order);
  matrix.power = in_order(factors.power, channels, order);
  set_near(matrix);
  const std::size_t unused = ends_with_half ? static_cast<std::size_t>(lanes / 2) : 0;
  const std::size_t size = (order.size() - unused) * static_cast<std::size_t>(depth);
  unsigned char* const reserved = reserve_.take(size * sizeof(Weight));
  matrix.weights = reserved ? Buffer<Weight>::within(reserved, size) : Buffer<Weight>::if_there_is_memory(size);
  if (!matrix.weights.data()) {
    problem.what = NO_MEMORY;
    return -1;
  }
  Weight* to = matrix.weights.data();
  for (const Panel& panel : matrix.panels) {
    const int* const first = order.data() + panel.channel;
    for (int k = 0; k < depth; k += together) {
      for (const int* c = first; c < first + weight_lanes(panel, lanes); c++) {
        for (int i = 0; i < together; i++) {
          *to++ = *c < channels ? stored<Weight>(weights[static_cast<std::ptrdiff_t>(*c) * depth + k + i]) : Weight{};
        }
      }
    }
  }
  if (kernels_->input_offset) {
    for (std::size_t i = 0; i < order.size(); i++) {
      const int channel = order[i];
      if (channel >= channels) continue;
      Sum sum = 0;
      for (int k = 0; k < depth; k++) sum += weights[static_cast<std::ptrdiff_t>(channel) * depth + k];
      add_offset(matrix.bias.data()[i], kernels_->input_offset, sum);
    }
  }
  if (!matrices_.empty()) matrix.begin = matrices_.back().begin + matrices_.back().lines();
  matrices_.push_back(std::move(matrix));
  return static_cast<int>(matrices_.size()) - 1;
}

template <class T>
int Network<T>::add_depthwise(const Tap* weights, const Sum* bias, int channels, int copies, const Factors& factors,
                              const Rounding& rounding, Problem& problem) {
  problem.what = check_factors<T>(factors, rounding, channels);
  if (!problem.what && is_to_float(rounding.mode)) problem.what = "a depthwise layer gives no floats";
  if (problem.what) return -1;
  const std::size_t size = static_cast<std::size_t>(channels);
  const std::size_t count = size * (sizeof(T) == 1 ? 12 * static_cast<std::size_t>(copies) : 9);
  DepthwiseWeights<T> packed;
  packed.channels = channels;
  packed.copies = copies;
  packed.weights = copied(weights, count);
  packed.bias = copied(bias, size);
  packed.factor = copied(factors.factor, size);
  packed.fraction = copied(factors.fraction, size);
  packed.power = copied(factors.power, size);
  packed.rounding = rounding;
  if (kernels_->input_offset) {
    for (int channel = 0; channel < channels; channel++) {
      Sum sum = 0;
      for (int row = 0; row < 3 * copies; row++) {
        const std::ptrdiff_t from = (channel / BLOCK * 3 * copies + row) * BLOCK + channel % BLOCK;
        for (int i = 0; i < 3; i++) sum += weights[4 * from + i];
      }
      add_offset(packed.bias.data()[channel], kernels_->input_offset, sum);
    }
  }
  set_near(packed);
  depthwises_.push_back(std::move(packed));
  return static_cast<int>(depthwises_.size()) - 1;
}

template <class T>
std::size_t Network<T>::weight_bytes() const {
  std::size_t bytes = 0;
  for (const Matrix<T>& matrix : matrices_) bytes += bytes_of(matrix);
  for (const DepthwiseWeights<T>& packed : depthwises_) bytes += bytes_of(packed);
  return bytes;
}

template <class T>
bool makes_floats(const Network<T>& network, const Step& step) {
  if (sizeof(T) == sizeof(float)) return false;
  int last = step.kind == StepKind::MATMUL ? step.matrix : -1;
  if (step.kind == StepKind::ROWS || step.kind == StepKind::PLANE) {
    const Stage& stage = step.stages.back();
    last = stage.conv >= 0 ? stage.conv : stage.project;
  }
  return last >= 0 ? is_to_float(network.matrix(last).rounding.mode)
                   : step.kind == StepKind::TO_FLOAT || (step.reads_floats && step.kind == StepKind::RESIZE);
}

std::size_t Plan::size(int images) const {
  std::size_t most = 0;
  for (const Step& step : steps) {
    most = std::max(most, static_cast<std::size_t>(step.top) * static_cast<std::size_t>(images) +
                              step.thread_scratch * static_cast<std::size_t>(threads));
  }
  return most;
}

// See Step::work.
template <class T>
std::int64_t work(const Network<T>& network, const Step& step) {
  constexpr std::int64_t SLOWER = sizeof(T) == 1 ? 1 : 2;  // than bytes, where there is little to do
  constexpr std::int64_t MOVED = 16;                       // an element that is moved or added takes as long
  std::int64_t sum = 0;
  for (const Stage& stage : step.stages) {
    const std::int64_t in = std::int64_t{stage.in_height} * stage.in_width;
    const std::int64_t out = std::int64_t{stage.out_height} * stage.out_width;
    if (stage.conv >= 0) sum += out * stage.out_channels * network.matrix(stage.conv).depth;
    if (stage.expand >= 0) sum += in * stage.in_channels * stage.wide_channels;
    if (stage.depthwise >= 0) sum += out * stage.wide_channels * 9;
    if (stage.project >= 0) sum += out * stage.wide_channels * stage.out_channels;
  }
  const auto elements = static_cast<std::int64_t>(step.in_size() + step.out_size());
  if (step.kind == StepKind::MATMUL) {
    sum = static_cast<std::int64_t>(step.in_size()) * step.out_channels;
  } else if (step.stages.empty()) {
    sum = elements * MOVED;
  }
  return sum * SLOWER / (step.kind == StepKind::PLANE ? 2 : 1);
}

std::size_t Plan::scratch(const Step& step, int slot, int images, std::size_t size) const {
  const std::size_t top = static_cast<std::size_t>(step.top) * static_cast<std::size_t>(images);
  if (threads == 1) return top;
  const std::size_t room = (size - top) / static_cast<std::size_t>(threads) / LINE_BYTES * LINE_BYTES;
  const std::size_t each = std::max(step.thread_scratch, std::min(room, widest_scratch));
  return size - each * static_cast<std::size_t>(threads - slot);
}

template <class T>
std::unique_ptr<Plan> Network<T>::plan(std::vector<Step> steps, int threads, Problem& problem) const {
  problem = check_steps(*this, steps, threads);
  if (problem.what) return nullptr;
  auto plan = std::make_unique<Plan>();
  plan->threads = threads;
  for (Step& step : steps) {
    step.thread_scratch = scratch_size(*this, step);
    step.work = work(*this, step);
    plan->widest_scratch = std::max(plan->widest_scratch, step.thread_scratch);
    for (const std::ptrdiff_t input : step.inputs) {
      if (input == IMAGE) plan->image_size = step.in_size();
    }
    if (step.output > ANSWER) continue;
    const std::size_t index = static_cast<std::size_t>(ANSWER - step.output);
    if (index >= plan->answer_sizes.size()) {
      plan->answer_sizes.resize(index + 1);
      plan->answer_bytes.resize(index + 1);
    }
    const bool labels = step.kind == StepKind::LABELS;
    const std::size_t pixels = static_cast<std::size_t>(step.out_height) * static_cast<std::size_t>(step.out_width);
    const std::size_t before = step.kind == StepKind::MATMUL ? static_cast<std::size_t>(step.scratch) : 0;
    plan->answer_sizes[index] = std::max(plan->answer_sizes[index], labels ? pixels : before + step.out_size());
    plan->answer_bytes[index] = labels ? step.label_bytes : static_cast<int>(sizeof(float));
  }
  plan->steps = std::move(steps);
  return plan;
}

template <class T>
void Network<T>::run(const Plan& plan, const Images& images, void* const* answers, double* seconds, T* given) {
  Buffer<T> kept = given ? Buffer<T>() : take_workspace(plan.size(images.count));
  const FlushSubnormals flush;
  std::vector<Ahead<T>> ahead(static_cast<std::size_t>(plan.threads), Ahead<T>(*this));
  const auto run = [&](Pool& pool) {
    T* const workspace = given ? given : kept.data();
    execute(Run<T>{*this, plan, images, answers, workspace, plan.size(images.count), &pool, ahead.data(), seconds});
  };
  if (pool_ && plan.threads > 1 && !pool_->forked()) {
    const std::lock_guard<Mutex> lock(pool_mutex_);
    run(*pool_);
  } else {  // in a forked child there are no workers, and whoever held the mutex may not exist
    Pool alone(1);
    run(alone);
  }
  if (!given) give_back(std::move(kept));
}

template <class T>
Buffer<T> Network<T>::take_workspace(std::size_t size) {
  Buffer<T> workspace;
  {
    const std::lock_guard<ForkSafeMutex> lock(workspace_mutex_);
    if (!workspaces_.empty()) {
      workspace = std::move(workspaces_.back());
      workspaces_.pop_back();
    }
  }
  return workspace.size() >= size ? std::move(workspace) : Buffer<T>(size);
}

template <class T>
void Network<T>::give_back(Buffer<T> workspace) {
  if (workspace.size() * sizeof(T) > KEPT_BYTES) return;
  const std::lock_guard<ForkSafeMutex> lock(workspace_mutex_);
  if (workspaces_.size() < static_cast<std::size_t>(threads_ + 1)) workspaces_.push_back(std::move(workspace));
}

#define MNV2_INSTANTIATE(T)                                      \
  template bool makes_floats<T>(const Network<T>&, const Step&); \
  template class Network<T>;
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
