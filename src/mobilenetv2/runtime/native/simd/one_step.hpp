// What a vocabulary says that multiplies one step of the depth at a time, bytes as they are, into whole sums.
#pragma once

namespace mobilenetv2 {
namespace MNV2_NAMESPACE {
namespace {

constexpr int STEPS = 1;
using Steps = Vec;
inline Steps load_steps(const float* from) { return splat(*from); }
template <int>
inline Vec fma_step(Steps values, Vec by, Vec sum) {
  return fma(values, by, sum);
}

#if !defined(MNV2_BYTE_TILE_ROWS)
constexpr int byte_tile_rows(int vectors) { return tile_rows(vectors); }
#endif
constexpr int INPUT_OFFSET = 0;
using Sums = Ints;
inline Sums to_sums(Ints start) { return start; }
inline Ints from_sums(Sums sums) { return sums; }
inline Ints add_quads(Ints sum, Ints bytes) { return dot(sum, bytes, splat_ints(0x01010101)); }
constexpr int INPUT_STEPS = 1;
using InputSteps = Ints;
inline InputSteps load_input_step(const std::uint8_t* from) { return splat_quad(from); }
inline InputSteps load_input_steps(const std::uint8_t* from) { return splat_quad(from); }
template <int>
inline Sums dot_step(Sums sum, InputSteps inputs, Ints weights) {
  return dot(sum, inputs, weights);
}

}  // namespace
}  // namespace MNV2_NAMESPACE
}  // namespace mobilenetv2
