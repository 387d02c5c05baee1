// A program that was read: a network, its plan and the memory that it runs in. include/mobilenetv2.h is its interface.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "mobilenetv2.h"
#include "network.hpp"

struct mnv2_program {
  struct Output {
    char name[64];
    mnv2_type type;
    int channels, height, width;
    mobilenetv2::Buffer<unsigned char> data;
  };

  int batch = 0, height = 0, width = 0, channels = 0;
  // One of them, as its numbers are.
  std::unique_ptr<mobilenetv2::Network<float>> floats;
  std::unique_ptr<mobilenetv2::Network<std::uint8_t>> bytes;
  std::unique_ptr<mobilenetv2::Plan> plan;
  mobilenetv2::Buffer<unsigned char> workspace;
  std::vector<Output> outputs;
  std::vector<void*> answers;     // where the outputs lie
  std::vector<char> labels;       // each with a zero behind it
  std::vector<char> description;  // with a zero behind it
};

namespace mobilenetv2 {

// What a call comes to: MNV2_OK, or what is wrong, and where among the layers or steps.
struct Outcome {
  mnv2_status status = MNV2_OK;
  const char* what = nullptr;
  const char* part = nullptr;  // "layer" or "step"; null: of the whole
  int number = 0;
};

// Reads a program. The data begins at a multiple of 8 bytes. `isa`: an instruction set; null for the best. `threads`:
// 0 for the file's.
Outcome read_program(const unsigned char* data, std::size_t size, int threads, const char* isa, mnv2_program& program);

// Runs it on `images` images, at most its batch, and checks that floats are finite.
Outcome run_program(mnv2_program& program, const std::uint8_t* pixels, int images);

// mnv2_open with an instruction set.
mnv2_status open_program(const void* data, std::size_t size, int threads, const char* isa, mnv2_program** program);

}  // namespace mobilenetv2
