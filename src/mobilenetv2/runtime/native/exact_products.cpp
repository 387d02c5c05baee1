// Of WebAssembly: whether the dot product of this target takes all eight bits of both operands on this processor. What
// relaxed SIMD does with the eighth bit of its second operand is left to the processor.
#include "kernels.hpp"
#include "simd.hpp"

namespace {

using namespace mobilenetv2::MNV2_NAMESPACE;

constexpr int VALUES = 4;
// volatile: to be multiplied by the processor, not by the compiler
volatile std::uint8_t bytes[VALUES] = {0, 127, 128, 255};
volatile std::int8_t weights[VALUES] = {-128, -1, 1, 127};

}  // namespace

extern "C" int mnv2_exact_products() {
  for (int first = 0; first < VALUES; first++) {
    for (int second = 0; second < VALUES; second++) {
      for (int weight = 0; weight < VALUES; weight++) {
        for (int other = 0; other < VALUES; other++) {
          const std::uint8_t quad[4] = {bytes[first], bytes[second], bytes[second], bytes[first]};
          std::int8_t lanes[4 * LANES];
          for (int i = 0; i < 4 * LANES; i++) lanes[i] = i % 2 ? weights[weight] : weights[other];
          std::int32_t sums[LANES];
          store_ints(sums, dot(splat_ints(7), splat_quad(quad), load_weights(lanes)));
          int expected = 7;
          for (int i = 0; i < 4; i++) expected += quad[i] * lanes[i];
          for (const std::int32_t sum : sums) {
            if (sum != expected) return 0;
          }
        }
      }
    }
  }
  return 1;
}
