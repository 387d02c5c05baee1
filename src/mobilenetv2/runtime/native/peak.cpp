#include "peak.hpp"

#include <algorithm>
#include <chrono>

namespace mobilenetv2 {

double fma_rate(const Kernels<float>& kernels) {
  constexpr int ROUNDS = 1 << 17, TRIES = 40;  // a try is a fraction of a millisecond: most are not interrupted
  volatile float kept = 0.5f;
  double best = 0;
  for (int i = 0; i < TRIES; i++) {
    const auto begin = std::chrono::steady_clock::now();
    kept = kernels.fma_chains(ROUNDS, kept > 0 ? 0.5f : 0.25f);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(ROUNDS) * FMA_CHAINS * kernels.lanes / taken.count());
  }
  return best;
}

}  // namespace mobilenetv2
