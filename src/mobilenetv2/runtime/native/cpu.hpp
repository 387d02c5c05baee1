// What this processor and its operating system offer, and how it is set.
#pragma once

#include <vector>

namespace mobilenetv2 {

// Names, widest last: on x86-64 out of "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16"; on 64-bit Arm "neon",
// "dotprod" and "i8mm". Empty where none applies; "scalar" is always possible and not listed.
std::vector<const char*> instruction_sets();

// Whether it is one of them, or "scalar".
bool runs_here(const char* isa);

// Seconds of a clock that only goes forward.
double seconds_now();

// Tells the processor that this thread only waits.
void pause();

// While it lives, subnormal numbers count as zero on this thread; then the mode is as before.
class FlushSubnormals {
 public:
  FlushSubnormals();
  ~FlushSubnormals();
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned long long before_;
};

// The processor that the calling thread runs on, -1 if the system does not say.
int current_processor();
// The system's number of the calling thread, 0 if it does not say.
int current_thread();

// The processors that the thread that makes it may use.
class Processors {
 public:
  Processors();
  // Keeps a thread of this process to any of them but this one, if there is another.
  void keep_off(int processor, int thread) const;

 private:
  static constexpr int MOST = 1024;
  [[maybe_unused]] bool usable_[MOST] = {};
  [[maybe_unused]] int count_ = 0;
};

}  // namespace mobilenetv2
