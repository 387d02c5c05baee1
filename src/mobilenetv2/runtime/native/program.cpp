// Opens and runs programs.

#include "program.hpp"

#include <cmath>
#include <cstddef>
#include <cstring>

#include "program_reader.hpp"
#include "targets.hpp"

namespace mobilenetv2 {
namespace {

// CRC-32 as zlib's, four bytes at a time.
std::uint32_t checksum(const unsigned char* data, std::size_t size) {
  std::uint32_t tables[4][256];  // of a byte, and of one before 1 to 3 others
  for (std::uint32_t i = 0; i < 256; i++) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
    tables[0][i] = value;
  }
  for (int k = 1; k < 4; k++) {
    for (int i = 0; i < 256; i++) tables[k][i] = tables[k - 1][i] >> 8 ^ tables[0][tables[k - 1][i] & 255];
  }
  std::uint32_t sum = ~std::uint32_t{0};
  std::size_t i = 0;
  for (; i + 4 <= size; i += 4) {
    std::uint32_t word;
    std::memcpy(&word, data + i, 4);
    sum ^= word;
    sum = tables[3][sum & 255] ^ tables[2][sum >> 8 & 255] ^ tables[1][sum >> 16 & 255] ^ tables[0][sum >> 24];
  }
  for (; i < size; i++) sum = sum >> 8 ^ tables[0][(sum ^ data[i]) & 255];
  return ~sum;
}

Outcome check_header(const unsigned char* data, std::size_t size, const ProgramHeader& header) {
  constexpr std::size_t SUMMED = offsetof(ProgramHeader, size);
  MNV2_REQUIRE(header.size == size, "it is not whole: its size is another one than it says");
  MNV2_REQUIRE(checksum(data + SUMMED, size - SUMMED) == header.checksum, "it is damaged: its checksum is another one");
  MNV2_REQUIRE(within(header.bytes, 0, 1), "its numbers are of an unknown kind");
  MNV2_REQUIRE(within(header.batch, 1, MOST_BATCH), "its batch is out of range");
  MNV2_REQUIRE(within(header.height, 1, MOST_SIDE) && within(header.width, 1, MOST_SIDE) &&
                   within(header.channels, 1, MOST_CHANNELS),
               "the size of its images is out of range");
  MNV2_REQUIRE(within(header.threads, 1, MOST_THREADS), "its number of threads is out of range");
  for (const std::uint32_t number : header.reserved)
    MNV2_REQUIRE(number == 0, "it says what this version does not know");
  // Of each section; what follows the last record, and the last array, is nothing.
  constexpr std::uint64_t UNITS[SECTION_COUNT] = {sizeof(OutputRecord),
                                                  sizeof(float),
                                                  sizeof(LayerRecord),
                                                  sizeof(StepRecord),
                                                  sizeof(StageRecord),
                                                  sizeof(std::int64_t),
                                                  256,
                                                  PROGRAM_ALIGNMENT,
                                                  1,
                                                  1};
  const std::uint64_t* unit = UNITS;
  std::uint64_t end = sizeof(ProgramHeader);
  for (const SectionRecord& section : header.sections) {
    MNV2_REQUIRE(section.begin == aligned(end) && section.begin <= size && section.size <= size - section.begin,
                 "a section lies outside of it");
    MNV2_REQUIRE(section.size % *unit++ == 0, "a section ends within a record");
    end = section.begin + section.size;
  }
  MNV2_REQUIRE(end == size, "something lies behind its last section");
  return {};
}

template <class T>
Outcome read_into(const unsigned char* data, const ProgramHeader& header, int threads, const char* isa,
                  mnv2_program& program, std::unique_ptr<Network<T>>& network) {
  const std::vector<const char*> names = kernel_names<T>();
  if (names.empty())
    return {MNV2_BAD_ARGUMENT, "the processor lacks the instruction sets that the library is built for"};
  const Kernels<T>* const kernels = find_kernels<T>(isa ? isa : names.back());
  if (!kernels) return {MNV2_BAD_ARGUMENT, "no such instruction set"};
  network = std::make_unique<Network<T>>(*kernels, threads);
  return read_network(data, header, program, *network);
}

template <class T>
Outcome run_network(Network<T>& network, mnv2_program& program, const std::uint8_t* pixels, int images) {
  network.run(*program.plan, {pixels, nullptr, images}, program.answers.data(), nullptr,
              reinterpret_cast<T*>(program.workspace.data()));
  if (sizeof(T) == 1) return {};
  for (std::size_t i = 0; i < program.outputs.size(); i++) {
    if (program.outputs[i].type != MNV2_FLOAT32) continue;
    const float* const values = static_cast<const float*>(program.answers[i]);
    const std::size_t size = program.plan->answer_sizes[i];
    for (std::size_t k = 0; k < size * static_cast<std::size_t>(images); k++) {
      if (!std::isfinite(values[k])) {
        return {MNV2_NOT_FINITE, "a result is not finite; the weights are damaged or too large", "image",
                static_cast<int>(k / size)};
      }
    }
  }
  return {};
}

}  // namespace

Outcome read_program(const unsigned char* data, std::size_t size, int threads, const char* isa, mnv2_program& program) {
  ProgramHeader header;
  MNV2_REQUIRE(size >= sizeof(header), "it is too short for a program");
  std::memcpy(&header, data, sizeof(header));
  MNV2_REQUIRE(std::memcmp(header.magic, PROGRAM_MAGIC, sizeof(PROGRAM_MAGIC)) == 0, "it is not a program");
  MNV2_REQUIRE(header.version == PROGRAM_VERSION,
               "it is a program of another version: write it again, or use a newer library");
  MNV2_PASS(check_header(data, size, header));
  if (!within(threads, 0, MOST_THREADS)) return {MNV2_BAD_ARGUMENT, "the number of threads is from 0 to 64"};
  if (threads == 0) threads = header.threads;
  program.batch = header.batch;
  program.height = header.height;
  program.width = header.width;
  program.channels = header.channels;
  return header.bytes ? read_into(data, header, threads, isa, program, program.bytes)
                      : read_into(data, header, threads, isa, program, program.floats);
}

Outcome run_program(mnv2_program& program, const std::uint8_t* pixels, int images) {
  return program.bytes ? run_network(*program.bytes, program, pixels, images)
                       : run_network(*program.floats, program, pixels, images);
}

}  // namespace mobilenetv2
