// The pool of a WebAssembly module whose memory workers share: each enters mnv2_work once and stays there.
#include "pool.hpp"
#include "program_reader.hpp"

namespace mobilenetv2 {
namespace {

constexpr int SPINS = 20000;                     // looks at the tasks, some ten microseconds, before a thread sleeps
constexpr int PATIENCE = 100;                    // before a thread takes tasks of others
constexpr long long SLEEP_NANOSECONDS = 100000;  // of the caller, between looks

// One pool for a module: its caller is the only one.
Tasks::Lane lanes[MOST_THREADS];
Tasks tasks(lanes);
std::atomic<int> sleepers{0};
std::atomic<int> calls{0};
bool caller_sleeps = false;
int never_changes = 0;

int* address(std::atomic<int>& number) { return reinterpret_cast<int*>(&number); }

}  // namespace

void Pool::run(int count, Tasks::Call call, const void* body, std::size_t body_bytes) {
  tasks.begin(count, threads_, call, body, body_bytes);
  if (sleepers > 0) {
    calls++;
    __builtin_wasm_memory_atomic_notify(address(calls), ~0u);
  }
  tasks.work(0);
  for (int spins = 0; !tasks.done();) {
    if (spins >= PATIENCE && tasks.help(0)) continue;
    if (spins < SPINS) {
      spins++;
    } else if (caller_sleeps) {  // so that the system may run a worker here
      __builtin_wasm_memory_atomic_wait32(&never_changes, 0, SLEEP_NANOSECONDS);
    }
  }
}

}  // namespace mobilenetv2

// Whether the thread that calls may sleep: that of a window may not.
extern "C" void mnv2_may_sleep(int may) { mobilenetv2::caller_sleeps = may != 0; }

// `slot`: from 1 to the number of threads less one, another for each worker. Does not return: whoever started the
// worker ends it.
extern "C" [[noreturn]] void mnv2_work(int slot) {
  using namespace mobilenetv2;
  for (int spins = 0;; spins++) {
    if (tasks.work(slot) || (spins >= PATIENCE && tasks.help(slot))) {
      spins = 0;
    } else if (spins > SPINS) {
      sleepers++;
      const int seen = calls;
      if (!tasks.waiting()) __builtin_wasm_memory_atomic_wait32(address(calls), seen, -1);
      sleepers--;
      spins = 0;
    }
  }
}
