// The weights of a program, which lie in the file as Network::add_matrix and add_depthwise take them.

#include <cmath>

#include "program_reader.hpp"

namespace mobilenetv2 {
namespace {

// The greatest sum of a channel that any bytes can give.
double largest_sum(const std::int8_t* weights, std::size_t count, std::size_t stride, std::size_t run, double bias,
                   double depth_factor) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < count; i++) {
    for (std::size_t k = 0; k < run; k++)
      sum += weights[i * stride + k] < 0 ? -weights[i * stride + k] : weights[i * stride + k];
  }
  return std::fabs(bias) + 255.0 * (static_cast<double>(sum) + depth_factor);
}

// Whether a channel's sum fits 32 bits, and its result those modes that do not limit it.
bool sum_fits(RoundingMode mode, const Factors& factors, std::size_t channel, double sum) {
  if (sum > MOST_SUM) return false;
  if (mode == RoundingMode::ONCE_SATURATING) return sum * std::fabs(factors.factor[channel]) <= MOST_SUM;
  if (mode != RoundingMode::TWICE_NON_NEGATIVE) return true;
  return sum * std::fabs(factors.fraction[channel]) + std::fabs(factors.power[channel]) <= MOST_SUM;
}

template <class T>
class Layers {
 public:
  Layers(const ProgramView& file, Network<T>& network) : file_(file), network_(network) {}

  Outcome read() {
    std::uint64_t begin = 0;
    for (std::size_t i = 0; i < file_.count<LayerRecord>(LAYERS); i++) {
      Outcome outcome = read_layer(file_.at<LayerRecord>(LAYERS, i), begin);
      if (outcome.status) {
        outcome.part = "layer";
        outcome.number = static_cast<int>(i);
        return outcome;
      }
    }
    return {};
  }

 private:
  static constexpr bool floats() { return sizeof(T) == sizeof(float); }

  // The next array of weights of `count` numbers, and moves `begin` behind it; null where the file ends before.
  template <class N>
  const N* array(std::uint64_t& begin, std::uint64_t count) const {
    const std::uint64_t bytes = count * sizeof(N);
    if (begin > file_.size(WEIGHTS) || bytes > file_.size(WEIGHTS) - begin) return nullptr;
    const unsigned char* const from = file_.begin(WEIGHTS) + static_cast<std::size_t>(begin);
    begin = aligned(begin + bytes);
    return reinterpret_cast<const N*>(from);
  }

  Outcome read_layer(const LayerRecord& record, std::uint64_t& begin) {
    using Weight = typename Types<T>::Weight;
    using Sum = typename Types<T>::Sum;
    MNV2_REQUIRE(record.begin == begin, "its weights do not follow those before");
    MNV2_REQUIRE(within(record.depthwise, 0, 1), "an unknown kind of layer");
    MNV2_REQUIRE(within(record.channels, 1, MOST_CHANNELS), "its channels are out of range");
    const bool depthwise = record.depthwise == 1;
    MNV2_REQUIRE(within(record.depth, 1, depthwise ? (floats() ? 1 : MOST_COPIES) : 1 << 24),
                 "its depth is out of range");
    MNV2_REQUIRE(depthwise ? record.channels % BLOCK == 0 : floats() || record.depth % 4 == 0, "its weights are cut");
    MNV2_REQUIRE(within(record.input_factor, floats() || depthwise ? 0 : -512, floats() || depthwise ? 0 : 512),
                 "its factor of the inputs is out of range");
    MNV2_REQUIRE(within(record.tail, 0, floats() || depthwise ? 0 : 3), "its tail is out of range");
    MNV2_REQUIRE(within(record.factors, 0, 2), "its factors are of an unknown kind");
    MNV2_REQUIRE(within(record.rounding.mode, 0, static_cast<int>(RoundingMode::TWICE_TO_FLOAT)),
                 "an unknown rounding");
    const std::uint64_t channels = static_cast<std::uint64_t>(record.channels);
    const std::uint64_t depth = static_cast<std::uint64_t>(record.depth);
    const Weight* const weights = array<Weight>(begin, channels * (!depthwise ? depth : floats() ? 9 : 12 * depth));
    const Sum* const bias = array<Sum>(begin, channels);
    Factors factors{};
    if (record.factors == 1) factors.factor = array<float>(begin, channels);
    if (record.factors == 2) factors.fraction = array<double>(begin, channels);
    if (record.factors == 2) factors.power = array<double>(begin, channels);
    MNV2_REQUIRE(weights && bias && (record.factors != 1 || factors.factor) &&
                     (record.factors != 2 || (factors.fraction && factors.power)),
                 "the file ends within its weights");
    const Rounding rounding = rounding_of(record.rounding);
    Problem problem;
    if (depthwise) {
      network_.add_depthwise(weights, bias, record.channels, record.depth, factors, rounding, problem);
    } else {
      network_.add_matrix(weights, bias, record.channels, record.depth, record.input_factor, record.tail, factors,
                          rounding, problem);
    }
    if (problem.what) return {problem.what == NO_MEMORY ? MNV2_NO_MEMORY : MNV2_BAD_FILE, problem.what};
    if constexpr (!floats()) {
      for (std::size_t c = 0; c < channels; c++) {
        const std::size_t block = c / BLOCK * 12 * BLOCK * depth + c % BLOCK * 4;
        const double extra = depth * std::fabs(record.input_factor);
        const double sum = depthwise ? largest_sum(weights + block, 3 * depth, 4 * BLOCK, 4, bias[c], 0)
                                     : largest_sum(weights + c * depth, 1, 0, depth, bias[c], extra);
        MNV2_REQUIRE(sum_fits(rounding.mode, factors, c, sum), "a sum of it does not fit 32 bits");
      }
    }
    return {};
  }

  const ProgramView& file_;
  Network<T>& network_;
};

}  // namespace

template <class T>
Outcome read_layers(const ProgramView& file, Network<T>& network) {
  return Layers<T>(file, network).read();
}

template Outcome read_layers<float>(const ProgramView&, Network<float>&);
template Outcome read_layers<std::uint8_t>(const ProgramView&, Network<std::uint8_t>&);

}  // namespace mobilenetv2
