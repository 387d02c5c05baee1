// Compares the kernels of every target that runs here with the scalar kernels, over random jobs: bytes must be the
// same, floats within what rounding may do to so many terms. Nothing but a result may be written.
//   kernel_test [jobs of each kind]
// Prints what it compared, and ends with 1 at the first difference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "execute.hpp"
#include "network.hpp"
#include "targets.hpp"

using namespace mobilenetv2;

namespace {

class Random {
 public:
  explicit Random(unsigned seed) : state_(seed * 2654435761u + 88172645463325252u) {}
  unsigned next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<unsigned>(state_ >> 32);
  }
  int within(int low, int high) {
    return low + static_cast<int>(next() % (static_cast<unsigned>(high) - static_cast<unsigned>(low) + 1u));
  }
  bool chance(int in) { return within(1, in) == 1; }
  float unit() { return static_cast<float>(next() >> 8) * 0x1p-23f - 1.0f; }
  template <class T>
  std::vector<T> numbers(std::size_t count) {
    // One job in four has weights and inputs at their limits, where sums that are too narrow show.
    const bool extreme = chance(4);
    std::vector<T> numbers(count);
    for (T& number : numbers) {
      if constexpr (std::is_same_v<T, float>) {
        number = unit();
      } else if (extreme) {
        number = chance(3) ? std::numeric_limits<T>::max() : std::numeric_limits<T>::min();
      } else {
        number = static_cast<T>(within(std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
      }
    }
    return numbers;
  }

 private:
  unsigned long long state_;
};

constexpr std::size_t GUARD = 64;  // elements behind a result, which must stay as they are

// What a job gave, of bytes, floats or whole numbers, and how far floats may be off.
struct Results {
  std::vector<std::uint8_t> bytes;
  std::vector<float> floats;
  std::vector<std::int32_t> numbers;
  float bound = 0;
};

template <class T>
const char* type_name() {
  return sizeof(T) == 1 ? "int8" : "float";
}

[[noreturn]] void fail(const std::string& isa, const char* kind, int job, std::size_t at, double have, double want) {
  std::printf("%s, %s job %d, element %zu: %.9g, but %.9g in scalar\n", isa.c_str(), kind, job, at, have, want);
  std::exit(1);
}

template <class N>
void compare(const std::vector<N>& have, const std::vector<N>& want, float bound, const std::string& isa,
             const char* kind, int job) {
  for (std::size_t i = 0; i < want.size(); i++) {
    const double off = std::fabs(static_cast<double>(have[i]) - static_cast<double>(want[i]));
    if (!(off <= static_cast<double>(bound))) fail(isa, kind, job, i, have[i], want[i]);
  }
}

// Runs job after job, each in scalar and on every other target. `make` gives the results of a job from its seed.
template <class T>
void sweep(const char* kind, int jobs, const std::function<Results(const std::string& isa, unsigned seed)>& make) {
  std::string compared;
  for (const std::string isa : kernel_names<T>()) compared += isa == "scalar" ? "" : " " + isa;
  for (int job = 0; job < jobs; job++) {
    const Results want = make("scalar", static_cast<unsigned>(job));
    for (const std::string isa : kernel_names<T>()) {
      if (isa == "scalar") continue;
      const Results have = make(isa, static_cast<unsigned>(job));
      compare(have.bytes, want.bytes, 0, isa, kind, job);
      compare(have.floats, want.floats, want.bound, isa, kind, job);
      compare(have.numbers, want.numbers, 0, isa, kind, job);
    }
  }
  std::printf("%s %s: %d jobs,%s\n", type_name<T>(), kind, jobs, compared.c_str());
}

// A rounding in one of the modes, and factors that bring sums of `terms` products near the range of a byte.
struct RandomRounding {
  Rounding rounding;
  std::vector<float> factor;
  std::vector<double> fraction, power;

  RandomRounding(Random& random, RoundingMode mode, int channels, int terms) {
    rounding.mode = mode;
    const bool twice = !is_once(mode);
    const bool packed = mode == RoundingMode::ONCE_SATURATING || mode == RoundingMode::TWICE_NON_NEGATIVE;
    rounding.zero = mode == RoundingMode::TWICE_NON_NEGATIVE ? 0 : random.within(0, 3) * 60;
    const int least = packed ? 0 : random.within(0, 20), most = packed ? 255 : random.within(200, 255);
    rounding.low = static_cast<float>(least - rounding.zero);
    rounding.high = static_cast<float>(most - rounding.zero);
    rounding.input_zero = random.within(0, 255);
    rounding.shortcut_zero = random.within(0, 255);
    rounding.shortcut_factor = 0.75f + 0.25f * random.unit();
    rounding.float_scale = 0.25f;
    if (mode == RoundingMode::TWICE) {
      rounding.product_low = static_cast<float>(-random.within(0, 128));
      rounding.product_high = rounding.product_low + 255;
      const auto scaled = [&](double most_of) {
        return Twice{0.75 + 0.25 * static_cast<double>(random.unit()), most_of};
      };
      rounding.product = scaled(0.5);
      rounding.shortcut = scaled(0.5);
      rounding.total = scaled(0x1p-19);
    }
    const double about = 400.0 / (128.0 * 128.0 * std::sqrt(terms + 1.0));
    for (int c = 0; c < channels; c++) {
      const double exact = about * (0.6 + 0.4 * static_cast<double>(random.unit()));
      if (!twice) {
        factor.push_back(static_cast<float>(exact));
      } else if (mode == RoundingMode::TWICE_NON_NEGATIVE) {
        fraction.push_back(exact);
        power.push_back(0.5 + 0x1p-10);
      } else {
        int exponent;
        fraction.push_back(std::frexp(exact, &exponent));
        power.push_back(std::ldexp(1.0, exponent));
      }
    }
  }
  Factors factors() const {
    return {factor.empty() ? nullptr : factor.data(), fraction.empty() ? nullptr : fraction.data(),
            power.empty() ? nullptr : power.data()};
  }
};

RoundingMode random_mode(Random& random, int modes) { return static_cast<RoundingMode>(random.within(0, modes - 1)); }

// A handle of weights, unless there is none.
int accepted(int handle, const Problem& problem) {
  if (handle < 0) {
    std::printf("weights are refused: %s\n", problem.what);
    std::exit(1);
  }
  return handle;
}

// Where the results of a job go, first filled with what must stay where nothing is written.
template <class T>
std::vector<T> canvas(std::size_t size) {
  return std::vector<T>(size + GUARD, T{77});
}

// Calls move(where in blocks, where in fours) for all bytes of a map.
template <class Move>
void each_of_fours(int blocks, int rows, int width, const Move& move) {
  const int row = up_to_four(width) * BLOCK;
  for (int i = 0; i < blocks * rows; i++) {
    for (int x = 0; x < width; x++) {
      for (int c = 0; c < BLOCK; c++) {
        move(static_cast<std::size_t>((i * width + x) * BLOCK + c),
             static_cast<std::size_t>(i * row + x / FOUR * FOUR * BLOCK + c * FOUR + x % FOUR));
      }
    }
  }
}

// A product over dense pixels, over a blocked tensor, or of a convolution over rows.
template <class T>
Results product(const std::string& isa, unsigned seed) {
  Random random(seed);
  constexpr int UNIT = sizeof(T) == 1 ? 4 : 1;
  const int form = random.within(0, 2);  // dense, blocked, rows
  const int rows = form == 2 ? random.within(2, 3) : 1;
  const int segments = form == 1 ? random.within(1, 4) : form == 2 ? random.within(1, 2) : 1;
  const int depth = form == 1 ? BLOCK : UNIT * random.within(1, form == 0 ? 30 : 9);
  const int terms = rows * segments * depth;
  const int pixels = random.within(1, 40), channels = random.within(1, 75);
  const int pixel = form == 0 ? depth : form == 1 ? BLOCK : UNIT * random.within(1, 4);
  const int segment = form == 1 ? pixels * BLOCK : depth + UNIT;
  const int row = form == 2 ? pixels * pixel + segments * segment + 12 : 0;
  const int in_size = pixels * pixel + rows * row + segments * segment + depth;
  const std::vector<T> in = random.numbers<T>(static_cast<std::size_t>(in_size));
  const auto weights = random.numbers<typename Types<T>::Weight>(static_cast<std::size_t>(channels * terms));
  std::vector<typename Types<T>::Sum> bias(static_cast<std::size_t>(channels));
  for (auto& number : bias)
    number = static_cast<typename Types<T>::Sum>(random.within(-9999, 9999)) / (UNIT > 1 ? 1 : 9999);

  const RoundingMode mode = sizeof(T) == 1 ? random_mode(random, 6) : RoundingMode::ONCE;
  const RandomRounding made(random, mode, channels, terms);
  const int input_factor = sizeof(T) == 1 && random.chance(3) ? random.within(-128, 128) : 0;
  Network<T> network(*find_kernels<T>(isa.c_str()), 1);
  const Factors factors = sizeof(T) == 1 ? made.factors() : Factors{};
  Problem problem;
  const int handle = accepted(network.add_matrix(weights.data(), bias.data(), channels, terms, input_factor, 0, factors,
                                                 made.rounding, problem),
                              problem);

  Matmul<T> job = dense_matmul(network.matrix(handle), in.data(), pixel, pixels, static_cast<T*>(nullptr), -5.0f, 5.0f);
  job.in_row = row;
  job.in_segment = segment;
  job.row_count = rows;
  job.segment_count = segments;
  job.depth = depth;
  const bool blocked = !is_to_float(mode) && random.chance(2);
  const std::size_t size = static_cast<std::size_t>(pixels) * static_cast<std::size_t>(up_to_block(channels));
  std::vector<T> out = canvas<T>(size);
  std::vector<float> floats = canvas<float>(size);
  if (blocked) {
    job.out_pixel = BLOCK;
    job.out_block = pixels * BLOCK;
  }
  const std::vector<T> shortcut = random.numbers<T>(static_cast<std::size_t>(pixels * channels));
  if (takes_shortcut(mode) && random.chance(2)) job.shortcut = shortcut.data();
  const std::vector<typename Types<T>::Weight> ahead(4096);
  job.ahead = ahead.data();
  job.ahead_lines = random.within(0, 4096 * static_cast<int>(sizeof(ahead[0])) / 64);
  (is_to_float(mode) ? static_cast<void>(job.requantize.floats = floats.data())
                     : static_cast<void>(job.out = out.data()));
  const int out_rows = random.within(1, 3);
  if (!random.chance(4) && blocked && job.in_order && pixels % out_rows == 0) {
    const int width = pixels / out_rows, blocks = up_to_block(channels) / BLOCK;
    job.fours_width = width;
    job.out_block = out_rows * up_to_four(width) * BLOCK;
    std::vector<T> fours = canvas<T>(static_cast<std::size_t>(blocks * job.out_block));
    job.out = fours.data();
    network.kernels().matmul(job);
    job.out_block = pixels * BLOCK;
    each_of_fours(blocks, out_rows, width, [&](std::size_t in_blocks, std::size_t at) { out[in_blocks] = fours[at]; });
    std::copy(fours.end() - GUARD, fours.end(), out.end() - GUARD);
  } else {
    network.kernels().matmul(job);
  }

  // A target may write all channels of a block.
  for (int p = 0; blocked && p < pixels; p++) {
    for (int c = channels; c < up_to_block(channels); c++)
      out[c / BLOCK * job.out_block + p * BLOCK + c % BLOCK] = T{77};
  }
  Results results;
  if constexpr (sizeof(T) == 1) {
    results.bytes = out;
    results.floats = floats;
  } else {
    results.floats = out;
    results.bound = 0x1p-24f * static_cast<float>((terms + 2) * (terms + 2));
  }
  return results;
}

template <class T>
Results depthwise(const std::string& isa, unsigned seed) {
  Random random(seed);
  Stage stage;
  stage.stride = random.within(1, 3);
  stage.dilation = random.within(1, 3);
  stage.left = random.within(0, 2 * stage.dilation);
  stage.in_width = random.within(1, 30);
  stage.out_width = std::max(1, (stage.in_width + stage.left) / stage.stride);
  stage.wide_low = -1;
  stage.wide_high = 2;
  const int blocks = random.within(1, 3), channels = blocks * BLOCK;
  const int copies = sizeof(T) == 1 ? random.within(1, 3) : 1;
  const int out_rows = random.within(1, 7), in_rows = (out_rows - 1) * stage.stride + 2 * stage.dilation + 1;
  auto weights = random.numbers<typename Types<T>::Weight>(
      static_cast<std::size_t>(channels * (sizeof(T) == 1 ? 12 * copies : 9)));
  if (sizeof(T) == 1) {
    for (std::size_t i = 3; i < weights.size(); i += 4) weights[i] = 0;
  }
  std::vector<typename Types<T>::Sum> bias(static_cast<std::size_t>(channels));
  for (auto& number : bias)
    number = static_cast<typename Types<T>::Sum>(random.within(-9999, 9999)) / (sizeof(T) == 1 ? 1 : 9999);
  const RoundingMode mode = sizeof(T) == 1 ? random_mode(random, 4) : RoundingMode::ONCE;
  const RandomRounding made(random, mode, channels, 9 * copies);
  Network<T> network(*find_kernels<T>(isa.c_str()), 1);
  const Factors factors = sizeof(T) == 1 ? made.factors() : Factors{};
  Problem problem;
  const int handle = accepted(
      network.add_depthwise(weights.data(), bias.data(), channels, copies, factors, made.rounding, problem), problem);

  stage.depthwise = handle;
  Depthwise<T> job = depthwise_job(network.depthwise(handle), stage);
  std::ptrdiff_t row_size = stage.in_width * BLOCK;
  std::vector<T> in = random.numbers<T>(static_cast<std::size_t>(in_rows * channels * stage.in_width));
  std::vector<const T*> rows;
  job.fours = random.chance(2) && network.kernels().fours_vectors > 0 && takes_fours(network, stage);
  if (job.fours) {
    row_size = up_to_four(stage.in_width) * BLOCK;
    std::vector<T> fours(static_cast<std::size_t>(blocks * in_rows * row_size), T{99});
    each_of_fours(blocks, in_rows, stage.in_width,
                  [&](std::size_t in_blocks, std::size_t at) { fours[at] = in[in_blocks]; });
    in = fours;
  }
  job.in_block = row_size * in_rows;
  // At most one of the rows that a tap reads lies outside at either end.
  const int above = random.within(0, 1), below = random.within(0, 1);
  for (int i = 0; i < in_rows; i++) {
    const bool outside = i < above || i >= in_rows - below;
    rows.push_back(outside ? nullptr : in.data() + i * row_size);
  }
  job.rows = rows.data();
  job.out_rows = out_rows;
  job.out_block = static_cast<std::ptrdiff_t>(out_rows) * stage.out_width * BLOCK;
  std::vector<T> out = canvas<T>(static_cast<std::size_t>(blocks * job.out_block));
  job.out = out.data();
  network.kernels().depthwise(job);

  Results results;
  if constexpr (sizeof(T) == 1) {
    results.bytes = out;
  } else {
    results.floats = out;
    results.bound = 0x1p-24f * 100;
  }
  return results;
}

template <class T>
Results sum(const std::string& isa, unsigned seed) {
  Random random(seed);
  const int pixels = random.within(1, 60), channels = random.within(1, 70), stride = channels + random.within(0, 3);
  const std::vector<T> in = random.numbers<T>(static_cast<std::size_t>(pixels * stride));
  auto out = canvas<typename Types<T>::Sum>(static_cast<std::size_t>(channels));
  find_kernels<T>(isa.c_str())->sum(in.data(), pixels, stride, channels, out.data());
  Results results;
  if constexpr (sizeof(T) == 1) {
    results.numbers = out;
  } else {
    results.floats = out;
    results.bound = 0x1p-24f * static_cast<float>(pixels * pixels);
  }
  return results;
}

// Of a row of `columns` between two rows, resized to `width`.
template <class T>
Results labels(const std::string& isa, unsigned seed) {
  Random random(seed);
  const int channels = random.within(1, 24), columns = random.within(1, 9), width = random.within(1, 70);
  const std::size_t count = static_cast<std::size_t>(columns * channels);
  std::vector<float> upper = random.numbers<float>(count), lower = random.numbers<float>(count);
  Labels job{};
  job.codes = random.chance(2);
  for (std::size_t i = 0; i < count && job.codes; i++) {
    upper[i] = static_cast<float>(random.within(0, 9));
    lower[i] = static_cast<float>(random.within(0, 9));
  }
  std::vector<std::int32_t> left, right, ends(static_cast<std::size_t>(width));
  std::vector<float> share;
  for (int i = 0; i < width; i++) {
    const double at = static_cast<double>(i) * (columns - 1) / std::max(width - 1, 1);
    const int low = std::min(static_cast<int>(at), columns - 1);
    left.push_back(low * channels);
    right.push_back(std::min(low + 1, columns - 1) * channels);
    share.push_back(static_cast<float>(at - low));
  }
  for (int i = width - 1; i >= 0; i--) {
    const std::size_t here = static_cast<std::size_t>(i);
    ends[here] = i + 1 < width && left[here + 1] == left[here] ? ends[here + 1] : i + 1;
  }
  std::vector<std::uint8_t> possible;
  for (int column = 0; column < columns; column++) {
    std::vector<std::uint8_t> some(1 + MOST_POSSIBLE);
    for (int c = 0; c < channels; c++) {
      if (c == 0 || random.chance(2)) some[++some[0]] = static_cast<std::uint8_t>(c);
    }
    possible.insert(possible.end(), some.begin(), some.end());
  }
  std::vector<std::int32_t> out = canvas<std::int32_t>(static_cast<std::size_t>(width));
  job.upper = upper.data();
  job.lower = job.codes && random.chance(2) ? lower.data() : nullptr;
  job.channels = channels;
  job.width = width;
  job.left = left.data();
  job.right = right.data();
  job.ends = ends.data();
  job.share = share.data();
  job.possible = random.chance(2) ? possible.data() : nullptr;
  job.labels = out.data();
  find_kernels<T>(isa.c_str())->labels(job);
  Results results;
  results.numbers = out;
  return results;
}

template <class T>
void sweep_all(int jobs) {
  sweep<T>("products", jobs, product<T>);
  sweep<T>("depthwise", jobs, depthwise<T>);
  sweep<T>("sums", jobs, sum<T>);
  sweep<T>("labels", jobs, labels<T>);
}

}  // namespace

int main(int count, char** arguments) {
  const int jobs = count > 1 ? std::atoi(arguments[1]) : 300;
  sweep_all<float>(jobs);
  sweep_all<std::uint8_t>(jobs);
  std::printf("all the same\n");
  return 0;
}
