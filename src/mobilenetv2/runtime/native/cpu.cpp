#include "cpu.hpp"

#include <cstring>

#include "dialect.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <time.h>
#else
#include <chrono>
#endif

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(MNV2_X86_64)
#if defined(__GNUC__) || defined(__clang__)
#include <cpuid.h>
#endif
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace mobilenetv2 {

#if defined(MNV2_X86_64)
namespace {

struct Leaf {
  unsigned eax, ebx, ecx, edx;
};

#if defined(__GNUC__) || defined(__clang__)

// A leaf of CPUID: zeros if the processor does not have it.
Leaf cpuid(unsigned leaf, unsigned subleaf) {
  Leaf registers{};
  __get_cpuid_count(leaf, subleaf, &registers.eax, &registers.ebx, &registers.ecx, &registers.edx);
  return registers;
}

// Which registers the operating system saves.
unsigned extended_control() {
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

#else

Leaf cpuid(unsigned leaf, unsigned subleaf) {
  int registers[4];
  __cpuid(registers, 0);
  if (static_cast<unsigned>(registers[0]) < leaf) return {};
  __cpuidex(registers, static_cast<int>(leaf), static_cast<int>(subleaf));
  return {static_cast<unsigned>(registers[0]), static_cast<unsigned>(registers[1]), static_cast<unsigned>(registers[2]),
          static_cast<unsigned>(registers[3])};
}

unsigned extended_control() { return static_cast<unsigned>(_xgetbv(0)); }

#endif

constexpr unsigned bit(int number) { return 1u << number; }
bool has(unsigned value, unsigned bits) { return (value & bits) == bits; }

}  // namespace

std::vector<const char*> instruction_sets() {
  constexpr unsigned FMA = bit(12), XGETBV = bit(27), AVX = bit(28);                        // leaf 1, ECX
  constexpr unsigned AVX2 = bit(5), F = bit(16), DQ = bit(17), BW = bit(30), VL = bit(31);  // leaf 7, EBX
  constexpr unsigned VNNI = bit(11);                                                        // leaf 7, ECX
  constexpr unsigned AVXVNNI = bit(4), BF16 = bit(5);                                       // leaf 7.1, EAX
  constexpr unsigned YMM = bit(1) | bit(2);
#if defined(__APPLE__)
  constexpr unsigned ZMM = YMM;  // macOS saves the others from their first use on
#else
  constexpr unsigned ZMM = YMM | bit(5) | bit(6) | bit(7);
#endif
  const Leaf first = cpuid(1, 0), seventh = cpuid(7, 0), more = cpuid(7, 1);
  const unsigned saved = has(first.ecx, XGETBV) ? extended_control() : 0;
  const bool avx2 = has(saved, YMM) && has(first.ecx, AVX | FMA) && has(seventh.ebx, AVX2);
  const bool avx512 = avx2 && has(saved, ZMM) && has(seventh.ebx, F | DQ | BW | VL);
  std::vector<const char*> names;
  if (avx2) names.push_back("avx2");
  if (avx2 && has(more.eax, AVXVNNI)) names.push_back("avxvnni");
  if (avx512) names.push_back("avx512");
  if (avx512 && has(seventh.ecx, VNNI)) names.push_back("avx512vnni");
  if (avx512 && has(more.eax, BF16)) names.push_back("avx512bf16");
  return names;
}

#elif defined(__aarch64__)

namespace {

#if defined(__linux__)

// The kernel's own numbers of its capabilities: older headers do not name them.
constexpr unsigned long DOT_PRODUCT = 1ul << 20;   // of AT_HWCAP
constexpr unsigned long INT8_PRODUCT = 1ul << 13;  // of AT_HWCAP2

bool has_dot_product() { return (getauxval(AT_HWCAP) & DOT_PRODUCT) != 0; }
bool has_int8_product() { return (getauxval(AT_HWCAP2) & INT8_PRODUCT) != 0; }

#elif defined(__APPLE__)

bool has_feature(const char* name) {
  int value = 0;
  std::size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_dot_product() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_int8_product() { return has_feature("hw.optional.arm.FEAT_I8MM"); }

#else

bool has_dot_product() { return false; }
bool has_int8_product() { return false; }

#endif

}  // namespace

std::vector<const char*> instruction_sets() {
  std::vector<const char*> found{"neon"};
  const bool dot_product = has_dot_product();
  if (dot_product) found.push_back("dotprod");
  if (dot_product && has_int8_product()) found.push_back("i8mm");
  return found;
}

#elif defined(__wasm__)

// A module holds one of them: whoever loads it has looked for its instructions.
std::vector<const char*> instruction_sets() { return {"simd128", "relaxed"}; }

#else

std::vector<const char*> instruction_sets() { return {}; }

#endif

bool runs_here(const char* isa) {
  if (std::strcmp(isa, "scalar") == 0) return true;
  for (const char* const name : instruction_sets()) {
    if (std::strcmp(name, isa) == 0) return true;
  }
  return false;
}

#if defined(MNV2_X86_64)

void pause() { _mm_pause(); }

FlushSubnormals::FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(static_cast<unsigned>(before_) | 0x8040u); }
FlushSubnormals::~FlushSubnormals() { _mm_setcsr(static_cast<unsigned>(before_)); }

#elif defined(__aarch64__)

void pause() { asm volatile("yield"); }

FlushSubnormals::FlushSubnormals() {
  asm volatile("mrs %0, fpcr" : "=r"(before_));
  asm volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)));
}
FlushSubnormals::~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

#else

void pause() {}

FlushSubnormals::FlushSubnormals() : before_(0) {}
FlushSubnormals::~FlushSubnormals() { (void)before_; }

#endif

#if defined(__unix__) || defined(__APPLE__)

double seconds_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

#else

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

#endif

#if defined(__linux__)

int current_processor() { return sched_getcpu(); }

int current_thread() { return static_cast<int>(syscall(SYS_gettid)); }

Processors::Processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return;
  for (int i = 0; i < MOST && i < CPU_SETSIZE; i++) {
    usable_[i] = CPU_ISSET(i, &set);
    count_ += usable_[i];
  }
}

void Processors::keep_off(int processor, int thread) const {
  if (thread == 0 || processor < 0 || processor >= MOST || count_ < 1 + usable_[processor]) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < MOST && i < CPU_SETSIZE; i++) {
    if (usable_[i] && i != processor) CPU_SET(i, &set);
  }
  sched_setaffinity(thread, sizeof(set), &set);  // fails where the system forbids it; then nothing changes
}

#else

int current_processor() { return -1; }

int current_thread() { return 0; }

Processors::Processors() {}

void Processors::keep_off(int, int) const {}

#endif

}  // namespace mobilenetv2
