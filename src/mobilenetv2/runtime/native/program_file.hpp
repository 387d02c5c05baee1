// The file `.mnv2` as it lies in memory: little-endian records without padding. runtime/program.py writes the same;
// docs/c.md has the table.
#pragma once

#include <cstdint>

namespace mobilenetv2 {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "programs are little-endian, and are read where they lie");

constexpr char PROGRAM_MAGIC[8] = {'m', 'n', 'v', '2', 'p', 'r', 'o', 'g'};
constexpr std::uint32_t PROGRAM_VERSION = 1;
constexpr std::uint64_t PROGRAM_ALIGNMENT = 64;  // of sections, and of arrays of weights

// In the order in which they lie in the file.
enum ProgramSection {
  OUTPUTS,      // OutputRecord
  PADDING,      // float per channel of the image: what the border of the first convolution counts as
  LAYERS,       // LayerRecord
  STEPS,        // StepRecord
  STAGES,       // StageRecord
  NUMBERS,      // 64 bits each: the places that steps read; behind those of a concatenation, the channels of each
  TABLES,       // 256 bytes per input of a concatenation of bytes
  WEIGHTS,      // arrays
  LABELS,       // names of classes, each with a zero behind it
  DESCRIPTION,  // JSON
  SECTION_COUNT,
};

struct SectionRecord {
  std::uint64_t begin, size;
};

struct ProgramHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t checksum;  // CRC-32 of all that follows
  std::uint64_t size;      // of the file
  std::int32_t bytes;      // 1: an int8 network, 0: float32
  std::int32_t batch, height, width, channels, threads;
  std::uint32_t reserved[4];
  SectionRecord sections[SECTION_COUNT];
};

struct OutputRecord {
  char name[64];  // a zero at its end
  std::int32_t type, channels, height, width;
};

struct RoundingRecord {
  std::int32_t mode, zero, input_zero, shortcut_zero;
  float low, high, shortcut_factor, product_low, product_high, float_scale;
  double product_fraction, product_power, shortcut_fraction, shortcut_power, total_fraction, total_power;
};

// What Network::add_matrix or add_depthwise is given: weights, bias, then `factor`, or `fraction` and `power`; each
// array at the next multiple of PROGRAM_ALIGNMENT. Layers lie one behind another.
struct LayerRecord {
  std::uint64_t begin;     // of its first array, in the section of weights
  std::int32_t depthwise;  // 1; 0 for a matrix
  std::int32_t channels;
  std::int32_t depth;  // of a matrix; of a depthwise layer, its copies
  std::int32_t input_factor;
  std::int32_t factors;  // 0 none, 1 `factor`, 2 `fraction` and `power`
  std::int32_t tail;     // see Matmul
  RoundingRecord rounding;
};

// Places are as in Step, for a batch of one and one thread.
struct StepRecord {
  std::int32_t kind, first_stage, stages, first_number, inputs, first_table;
  std::int64_t output, scratch, top;
  double mean_factor, mean_divisor;
  std::int32_t chunk_channels;  // of PLANE: channels at once, whatever the panels
  std::int32_t matrix;
  float low, high;
  std::int32_t reads_floats, signed_codes, label_bytes;
  std::int32_t in_channels, in_height, in_width, out_channels, out_height, out_width;
  std::int32_t stripes;  // 0 as 1
  RoundingRecord rounding;
};

struct StageRecord {
  std::int32_t in_height, in_width, in_channels, wide_channels, out_height, out_width, out_channels;
  std::int32_t kernel, stride, dilation, top, left;
  std::int32_t conv, expand, depthwise, project;  // numbers among the matrices, or the depthwise layers; -1 for none
  float wide_low, wide_high, low, high;
  std::int32_t shortcut, strip;
};

static_assert(sizeof(ProgramHeader) == 224 && sizeof(OutputRecord) == 80 && sizeof(RoundingRecord) == 88, "no padding");
static_assert(sizeof(LayerRecord) == 120 && sizeof(StepRecord) == 208 && sizeof(StageRecord) == 88, "no padding");

}  // namespace mobilenetv2
