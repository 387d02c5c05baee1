#include "pool.hpp"

#include <new>
#include <system_error>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "cpu.hpp"

namespace mobilenetv2 {
namespace {

constexpr int SPINS = 4000;   // pauses of some 40 cycles before a worker sleeps
constexpr int PATIENCE = 40;  // before a thread takes tasks of others, whose lanes then move to its core

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<long>(getpid());
#else
  return 0;
#endif
}

}  // namespace

Pool::Pool(int threads)
    : numbers_(new std::atomic<int>[static_cast<std::size_t>(threads)]()),
      owner_(process()),
      lanes_(new Tasks::Lane[static_cast<std::size_t>(threads)]),
      tasks_(lanes_.get()) {
  workers_.reserve(static_cast<std::size_t>(threads - 1));
  try {
    for (int slot = 1; slot < threads; slot++) workers_.emplace_back([this, slot] { serve(slot); });
  } catch (const std::system_error&) {  // the system gives no more threads: those that there are do the work
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() {
  if (forked()) {
    for (std::thread& worker : workers_) worker.detach();
    new (&awake_) std::condition_variable;  // destroying the old one would wait for workers that sleep on it
    return;
  }
  stop();
}

void Pool::stop() {
  stopping_ = true;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
  }
  awake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool Pool::forked() const { return process() != owner_; }

void Pool::run(int count, Tasks::Call call, const void* body, std::size_t body_bytes) {
  tasks_.begin(count, threads(), call, body, body_bytes);
  if (sleepers_ > 0) wake();
  tasks_.work(0);
  for (int spins = 0; !tasks_.done(); spins++) {
    if (spins >= PATIENCE && tasks_.help(0)) continue;
    if (spins < SPINS) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::wake() {
  const int processor = current_processor();
  if (processor != kept_off_) {
    kept_off_ = processor;
    for (std::size_t i = 0; i < workers_.size(); i++) {
      if (numbers_[i] == 0) kept_off_ = -1;
      processors_.keep_off(processor, numbers_[i]);
    }
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
  }
  awake_.notify_all();
}

void Pool::serve(int slot) {
  const FlushSubnormals flush;
  numbers_[slot - 1] = current_thread();
  while (!stopping_) {
    for (int spins = 0; spins < SPINS; spins++) {
      if (tasks_.work(slot) || (spins >= PATIENCE && tasks_.help(slot))) spins = 0;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_++;
    awake_.wait(lock, [this] { return tasks_.waiting() || stopping_; });
    sleepers_--;
  }
}

}  // namespace mobilenetv2
