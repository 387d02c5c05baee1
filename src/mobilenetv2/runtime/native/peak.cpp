#include "peak.hpp"

#include <algorithm>
#include <chrono>

namespace mobilenetv2 {

template <class T>
double fma_rate(const Kernels<T>& kernels) {
  constexpr int TOGETHER = Types<T>::TOGETHER;  // multiply-adds of a lane
  constexpr int ROUNDS = 1 << 17, TRIES = 40;   // a try is a fraction of a millisecond: most are not interrupted
  volatile float kept = 0.5f;
  double best = 0;
  for (int i = 0; i < TRIES; i++) {
    const auto begin = std::chrono::steady_clock::now();
    kept = kernels.fma_chains(ROUNDS, kept > 0 ? 0.5f : 0.25f);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(ROUNDS) * FMA_CHAINS * kernels.lanes * TOGETHER / taken.count());
  }
  return best;
}

template double fma_rate<float>(const Kernels<float>&);
template double fma_rate<bfloat16>(const Kernels<bfloat16>&);
template double fma_rate<std::uint8_t>(const Kernels<std::uint8_t>&);

}  // namespace mobilenetv2
