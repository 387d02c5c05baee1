// What the parts of a program's reader share: limits, and how an Outcome is passed on.
#pragma once

#include <cstring>

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

inline Rounding rounding_of(const RoundingRecord& record) {
  Rounding rounding;
  rounding.mode = static_cast<RoundingMode>(record.mode);
  rounding.zero = record.zero;
  rounding.input_zero = record.input_zero;
  rounding.shortcut_zero = record.shortcut_zero;
  rounding.low = record.low;
  rounding.high = record.high;
  rounding.shortcut_factor = record.shortcut_factor;
  rounding.product_low = record.product_low;
  rounding.product_high = record.product_high;
  rounding.float_scale = record.float_scale;
  rounding.product = {record.product_fraction, record.product_power};
  rounding.shortcut = {record.shortcut_fraction, record.shortcut_power};
  rounding.total = {record.total_fraction, record.total_power};
  return rounding;
}

// A file and its sections, which lie within it.
struct ProgramView {
  const unsigned char* data;
  const ProgramHeader& header;

  std::size_t size(ProgramSection section) const { return static_cast<std::size_t>(header.sections[section].size); }
  const unsigned char* begin(ProgramSection section) const {
    return data + static_cast<std::size_t>(header.sections[section].begin);
  }
  template <class Record>
  std::size_t count(ProgramSection section) const {
    return size(section) / sizeof(Record);
  }
  template <class Record>
  Record at(ProgramSection section, std::size_t index) const {
    Record record;
    std::memcpy(&record, begin(section) + index * sizeof(Record), sizeof(Record));
    return record;
  }
};

// Gives a network its weights.
template <class T>
Outcome read_layers(const ProgramView& file, Network<T>& network);

// Reads everything behind a header that was checked.
template <class T>
Outcome read_network(const unsigned char* data, const ProgramHeader& header, mnv2_program& program,
                     Network<T>& network);

}  // namespace mobilenetv2
