// Compares the training kernels of every target that runs here with the scalar ones, over random jobs, with float32 and
// bfloat16 maps.
//   passes_test [jobs of each kind]
// Prints what it compared, and ends with 1 at the first difference.
#include "passes.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cpu.hpp"

using namespace mobilenetv2;

namespace {

float as_float(float value) { return value; }
float as_float(bfloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
void assign(float& to, float value) { to = value; }
void assign(bfloat16& to, float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  to.bits = static_cast<std::uint16_t>(bits >> 16);
}

class Random {
 public:
  explicit Random(int seed) : state_(static_cast<unsigned>(seed) * 2654435761u + 12345u) {}
  unsigned next() { return state_ = state_ * 1664525u + 1013904223u; }
  int within(int low, int high) {
    return low + static_cast<int>((next() >> 8) % static_cast<unsigned>(high - low + 1));
  }
  template <class N>
  std::vector<N> numbers(int count, float size = 1) {
    std::vector<N> numbers(static_cast<std::size_t>(count));
    for (N& number : numbers) assign(number, size * (static_cast<float>(next() >> 8) * 0x1p-23f - 1.0f));
    return numbers;
  }

 private:
  unsigned state_;
};

// What a job gave, as floats.
struct Results {
  std::vector<float> values;
  template <class N>
  void add(const std::vector<N>& numbers) {
    for (const N number : numbers) values.push_back(as_float(number));
  }
};

template <class T>
Results batch_norm(const Passes<T>& passes, int seed) {
  Random random(seed);
  const int pixels = random.within(1, 30), channels = 8 * random.within(1, 9);
  const auto in = random.numbers<T>(pixels * channels, 4), slope = random.numbers<T>(pixels * channels);
  const auto kept = random.numbers<float>(pixels * channels);
  const auto scale = random.numbers<float>(channels, 2), shift = random.numbers<float>(channels, 3);
  const auto a = random.numbers<float>(channels), b = random.numbers<float>(channels),
             c = random.numbers<float>(channels);
  const Norm norm{scale.data(), shift.data(), random.within(0, 1) == 1};
  Results results;
  const std::size_t count = static_cast<std::size_t>(channels), size = in.size();
  std::vector<float> sum(count), second(count), floats(size);
  std::vector<T> out(size);
  passes.sums(in.data(), pixels, channels, a.data(), sum.data(), second.data());
  results.add(sum), results.add(second);
  passes.normalise(in.data(), pixels, channels, norm, out.data());
  results.add(out);
  passes.gradient_sums(slope.data(), in.data(), pixels, channels, norm, a.data(), sum.data(), second.data());
  results.add(sum), results.add(second);
  passes.gradient(slope.data(), in.data(), pixels, channels, norm, a.data(), b.data(), c.data(), out.data());
  results.add(out);
  passes.gradient_sums_kept(kept.data(), in.data(), pixels, channels, norm, a.data(), sum.data(), second.data());
  results.add(sum), results.add(second);
  passes.gradient_kept(kept.data(), in.data(), pixels, channels, norm, a.data(), b.data(), c.data(), floats.data());
  results.add(floats);
  passes.convert(kept.data(), channels, pixels, channels, out.data());
  results.add(out);
  const auto limited = random.numbers<float>(pixels * channels, 9);
  passes.clip_gradient(limited.data(), kept.data(), pixels, channels, out.data(), sum.data());
  results.add(out), results.add(sum);
  return results;
}

template <class T>
Results depthwise(const Passes<T>& passes, int seed) {
  Random random(seed);
  const int stride = random.within(1, 2), height = random.within(1, 9), width = random.within(1, 9);
  const int channels = 8 * random.within(1, 5), top = random.within(0, 1), left = random.within(0, 1);
  const auto in = random.numbers<T>(height * width * channels);
  const Maps<T> maps{in.data(), height, width, (height - 1) / stride + 1, (width - 1) / stride + 1, channels,
                     stride,    top,    left};
  const int outputs = maps.out_height * maps.out_width * channels;
  const auto weights = random.numbers<float>(9 * channels);
  const auto slope = random.numbers<T>(outputs);
  std::vector<T> out(static_cast<std::size_t>(outputs)), back(in.size());
  std::vector<float> for_weights(weights.size());
  passes.depthwise(maps, weights.data(), out.data());
  passes.depthwise_gradient(maps, slope.data(), weights.data(), back.data(), for_weights.data());
  Results results;
  results.add(out), results.add(back), results.add(for_weights);
  return results;
}

template <class T>
Results product(const Passes<T>& passes, int seed) {
  Random random(seed);
  const int rows = random.within(1, 20), columns = 16 * random.within(1, 4), depth = random.within(1, 40);
  const int factors = (depth + PER_FACTOR<T> - 1) / PER_FACTOR<T>;
  const auto a = random.numbers<T>(rows * factors * PER_FACTOR<T>), b = random.numbers<T>(depth * columns);
  const auto start = random.numbers<float>(columns);
  std::vector<float> out = random.numbers<float>(rows * columns);
  std::vector<Factor<T>> paired(static_cast<std::size_t>(factors * columns));
  passes.pair_rows(b.data(), depth, columns, paired.data());
  Product<T> job{};
  job.a = reinterpret_cast<const Factor<T>*>(a.data());
  job.a_row = factors;
  job.a_step = 1;
  job.b = paired.data();
  job.b_row = columns;
  job.out = out.data();
  job.out_row = columns;
  job.rows = rows;
  job.columns = columns;
  job.depth = factors;
  job.start = random.within(0, 1) ? start.data() : nullptr;
  job.accumulates = random.within(0, 1) == 1;
  job.relu6 = random.within(0, 1) == 1;
  passes.product(job);
  Results results;
  results.add(out);
  return results;
}

template <class T>
void sweep(const char* kind, Results (*make)(const Passes<T>&, int), int jobs) {
  const float bound = sizeof(T) == 2 ? 0x1p-7f : 1e-4f;
  std::string compared;
  for (const std::string isa : instruction_sets()) {
    const Passes<T>* const passes = find_passes<T>(isa.c_str());
    if (!passes) continue;
    compared += " " + isa;
    for (int job = 0; job < jobs; job++) {
      const Results have = make(*passes, job), want = make(*find_passes<T>("scalar"), job);
      for (std::size_t i = 0; i < want.values.size(); i++) {
        if (std::fabs(have.values[i] - want.values[i]) <= bound * (1 + std::fabs(want.values[i]))) continue;
        std::printf("%s, %s job %d, number %zu: %.9g, but %.9g in scalar\n", isa.c_str(), kind, job, i,
                    static_cast<double>(have.values[i]), static_cast<double>(want.values[i]));
        std::exit(1);
      }
    }
  }
  std::printf("%s %s: %d jobs,%s\n", sizeof(T) == 2 ? "bfloat16" : "float32", kind, jobs, compared.c_str());
}

template <class T>
void sweep_all(int jobs) {
  sweep<T>("batch norm", batch_norm<T>, jobs);
  sweep<T>("depthwise", depthwise<T>, jobs);
  sweep<T>("products", product<T>, jobs);
}

}  // namespace

int main(int count, char** arguments) {
  const int jobs = count > 1 ? std::atoi(arguments[1]) : 100;
  sweep_all<float>(jobs);
  sweep_all<bfloat16>(jobs);
  std::printf("all the same\n");
  return 0;
}
