// Opens and runs damaged programs: fuzz_program SECONDS FIRST PROGRAM..., see tools/fuzz_program. Damage number N is
// the same in every run. Whatever is wrong must come back as a status.

#include <mobilenetv2.h>
#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

namespace {

using Bytes = std::vector<unsigned char>;

unsigned long number = 0;

void report() { std::fprintf(stderr, "damage %lu\n", number); }

std::uint32_t checksum(const unsigned char* data, std::size_t size) {
  std::uint32_t sum = ~0u;
  for (std::size_t i = 0; i < size; i++) {
    sum ^= data[i];
    for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0);
  }
  return ~sum;
}

template <class N>
N get(const Bytes& file, std::size_t at) {
  N value{};
  if (at + sizeof(N) <= file.size()) std::memcpy(&value, file.data() + at, sizeof(N));
  return value;
}

template <class N>
void put(Bytes& file, std::size_t at, N value) {
  if (at + sizeof(N) <= file.size()) std::memcpy(file.data() + at, &value, sizeof(N));
}

// Records lie before the weights: that is where most of the damage goes.
void damage(Bytes& file, std::mt19937_64& random) {
  constexpr std::size_t WEIGHTS_BEGIN = 64 + 7 * 16;  // of that section, in the header
  const std::size_t records = get<std::uint64_t>(file, WEIGHTS_BEGIN);
  const std::int32_t numbers[] = {0,  1,   -1,  -2,   -3,      2,       3,       15,      16,        17,
                                  64, 255, 256, 4096, 1 << 14, 1 << 15, 1 << 20, 1 << 30, INT32_MAX, INT32_MIN};
  const float floats[] = {0.0f, -1.0f, 1e30f, -1e19f, __builtin_nanf(""), __builtin_inff(), 255.0f, 256.0f, 1e-40f};
  for (std::uint64_t i = 1 + random() % 4; i > 0; i--) {
    const bool anywhere = random() % 8 == 0;
    const std::size_t at = random() % (anywhere || records > file.size() ? file.size() : records) / 4 * 4;
    switch (random() % 7) {
      case 0:
        put(file, at, numbers[random() % std::size(numbers)]);
        break;
      case 1:
        put(file, at, numbers[random() % std::size(numbers)] * (std::int64_t{1} << random() % 32));
        break;
      case 2:
        put(file, at, floats[random() % std::size(floats)]);
        break;
      case 3:
        put(file, at / 8 * 8, static_cast<double>(floats[random() % std::size(floats)]));
        break;
      case 4:
        put(file, at, get<std::uint32_t>(file, at) + static_cast<std::uint32_t>(random() % 33) - 16);
        break;
      case 5:
        put(file, at, get<std::int64_t>(file, random() % file.size() / 8 * 8));
        break;
      default:
        put(file, at + random() % 4, static_cast<unsigned char>(random()));
    }
  }
  if (random() % 16 == 0) file.resize(random() % file.size());
  if (random() % 32 == 0) return;
  put(file, 16, static_cast<std::uint64_t>(file.size()));
  if (file.size() > 16) put(file, 12, checksum(file.data() + 16, file.size() - 16));
}

bool runs(const Bytes& file, std::mt19937_64& random) {
  mnv2_program* program;
  const int threads = static_cast<int>(random() % 4);
  if (mnv2_open(file.data(), file.size(), threads, &program) != MNV2_OK) return mnv2_error()[0] == 0;
  mnv2_input_info input;
  mnv2_input(program, &input);
  const int images = 1 + static_cast<int>(random() % static_cast<unsigned>(input.batch));
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(images) * input.height * input.width * input.channels);
  for (std::uint8_t& value : pixels) value = static_cast<std::uint8_t>(random());
  const mnv2_status status = mnv2_run(program, pixels.data(), images);
  mnv2_output_info output;
  unsigned sum = 0;
  for (int i = 0; mnv2_output(program, i, &output) == MNV2_OK; i++) {
    const std::size_t each = output.type == MNV2_FLOAT32 ? 4 : output.type == MNV2_UINT8 ? 1 : 2;
    const std::size_t count = each * images * output.height * output.width * output.channels;
    for (std::size_t k = 0; k < count; k++) sum += static_cast<const unsigned char*>(output.data)[k];
    sum += static_cast<unsigned>(std::strlen(output.name));
  }
  for (int i = 0; mnv2_label(program, i); i++) sum += static_cast<unsigned>(std::strlen(mnv2_label(program, i)));
  volatile unsigned kept = sum + static_cast<unsigned>(std::strlen(mnv2_info(program)));
  (void)kept;
  mnv2_close(program);
  return status == MNV2_OK || status == MNV2_NOT_FINITE;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::fprintf(stderr, "fuzz_program SECONDS FIRST PROGRAM...\n"), 2;
  std::vector<Bytes> sound;
  for (int i = 3; i < argc; i++) {
    std::ifstream file(argv[i], std::ios::binary);
    sound.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    std::mt19937_64 random(0);
    if (!runs(sound.back(), random)) return std::fprintf(stderr, "%s: %s\n", argv[i], mnv2_error()), 2;
  }
  __sanitizer_set_death_callback(report);
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  const unsigned long first = std::strtoul(argv[2], nullptr, 10);
  unsigned long whole = 0;
  for (number = first; elapsed() < std::atof(argv[1]); number++) {
    std::mt19937_64 random(number);
    Bytes file = sound[random() % sound.size()];
    damage(file, random);
    alarm(60);
    whole += runs(file, random);
  }
  std::printf("%lu damaged programs, %lu of them ran, no finding\n", number - first, whole);
  return 0;
}
