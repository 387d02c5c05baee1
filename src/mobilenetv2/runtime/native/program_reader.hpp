// What the parts of a program's reader share: limits, and how an Outcome is passed on.
#pragma once

#include "program.hpp"
#include "program_file.hpp"

namespace mobilenetv2 {

#if !defined(MNV2_MOST_BYTES)
#define MNV2_MOST_BYTES (sizeof(void*) < 8 ? std::uint64_t{1} << 28 : std::uint64_t{1} << 30)
#endif
constexpr std::uint64_t MOST_BYTES = MNV2_MOST_BYTES;  // of a workspace, and of an image or a result
constexpr int MOST_SIDE = 1 << 14, MOST_CHANNELS = 1 << 15, MOST_THREADS = 64, MOST_BATCH = 1 << 10;
constexpr int MOST_ROWS = 1 << 19;  // of all images: a loop of the pool has fewer than twice as many
constexpr int MOST_KERNEL = 16, MOST_STRIDE = 16;
constexpr int MOST_STAGES = 8, MOST_INPUTS = 64, MOST_COPIES = 8;
constexpr double MOST_SUM = 2147483647.0 - 512;  // leaves room for a zero point

// Leaves a function that gives an Outcome.
#define MNV2_REQUIRE(holds, what)                      \
  do {                                                 \
    if (!(holds)) return Outcome{MNV2_BAD_FILE, what}; \
  } while (false)
#define MNV2_PASS(...)                                           \
  do {                                                           \
    if (const Outcome bad = __VA_ARGS__; bad.status) return bad; \
  } while (false)

inline bool within(std::int64_t value, std::int64_t least, std::int64_t most) {
  return value >= least && value <= most;
}

inline std::uint64_t aligned(std::uint64_t size) {
  return (size + PROGRAM_ALIGNMENT - 1) / PROGRAM_ALIGNMENT * PROGRAM_ALIGNMENT;
}

// Reads everything behind a header that was checked.
template <class T>
Outcome read_network(const unsigned char* data, const ProgramHeader& header, mnv2_program& program,
                     Network<T>& network);

}  // namespace mobilenetv2
