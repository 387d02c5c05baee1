// The pool of a WebAssembly module whose memory workers share: each enters mnv2_work once and stays there.
#include "pool.hpp"

namespace mobilenetv2 {
namespace {

constexpr int SPINS = 20000;  // looks at the tasks, some ten microseconds, before a worker sleeps

// One pool for a module: its caller is the only one.
Tasks tasks;
std::atomic<int> sleepers{0};
std::atomic<int> calls{0};

int* address(std::atomic<int>& number) { return reinterpret_cast<int*>(&number); }

}  // namespace

void Pool::run(int count, Tasks::Call call, void* body) {
  tasks.begin(count, call, body);
  if (sleepers > 0) {
    calls++;
    __builtin_wasm_memory_atomic_notify(address(calls), ~0u);
  }
  while (tasks.work(0)) {
  }
  // A page's own thread must not sleep.
  while (!tasks.done(count)) {
  }
}

}  // namespace mobilenetv2

// `slot`: from 1 to the number of threads less one, another for each worker. Does not return: whoever started the worker
// ends it.
extern "C" [[noreturn]] void mnv2_work(int slot) {
  using namespace mobilenetv2;
  for (int spins = 0;; spins++) {
    if (tasks.work(slot)) {
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
