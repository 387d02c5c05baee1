#include "cpu.hpp"

#include <cstring>

#if defined(__unix__) || defined(__APPLE__)
#include <time.h>
#else
#include <chrono>
#endif

#if defined(__linux__)
#include <sched.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace mobilenetv2 {

#if defined(__x86_64__)
namespace {

// AVX-VNNI (the 256-bit form without AVX-512): CPUID leaf 7, subleaf 1, EAX bit 4. GCC 12's __builtin_cpu_supports does
// not know its name.
bool has_avxvnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

}  // namespace

std::vector<const char*> instruction_sets() {
  // __builtin_cpu_supports also asks whether the operating system saves the wide registers.
  __builtin_cpu_init();
  std::vector<const char*> found;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) found.push_back("avx2");
  if (avx2 && has_avxvnni()) found.push_back("avxvnni");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) found.push_back("avx512");
  if (avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back("avx512vnni");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back("avx512bf16");
  return found;
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

#if defined(__x86_64__)

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

Processors::Processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return;
  for (int i = 0; i < MOST && i < CPU_SETSIZE; i++) {
    usable_[i] = CPU_ISSET(i, &set);
    count_ += usable_[i];
  }
}

void Processors::leave(int processor) const {
  if (processor < 0 || processor >= MOST || count_ < 1 + usable_[processor]) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < MOST && i < CPU_SETSIZE; i++) {
    if (usable_[i] && i != processor) CPU_SET(i, &set);
  }
  sched_setaffinity(0, sizeof(set), &set);  // fails where the system forbids it; then nothing changes
}

#else

int current_processor() { return -1; }

Processors::Processors() {}

void Processors::leave(int) const {}

#endif

}  // namespace mobilenetv2
