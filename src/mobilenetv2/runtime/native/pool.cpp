#include "pool.hpp"

#include <new>
#include <system_error>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "cpu.hpp"

namespace mobilenetv2 {
namespace {

constexpr int FIELD_BITS = 20;
constexpr std::uint64_t FIELD = (std::uint64_t{1} << FIELD_BITS) - 1;
constexpr int SPINS = 4000;  // pauses of some 40 cycles before a worker sleeps

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<long>(getpid());
#else
  return 0;
#endif
}

}  // namespace

Pool::Pool(int threads) : owner_(process()) {
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
    new (&wake_) std::condition_variable;  // destroying the old one would wait for workers that sleep on it
    return;
  }
  stop();
}

void Pool::stop() {
  stopping_ = true;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool Pool::forked() const { return process() != owner_; }

bool Pool::waiting() const {
  const std::uint64_t ticket = ticket_.load();
  return (ticket & FIELD) < ((ticket >> FIELD_BITS) & FIELD);
}

bool Pool::work(int slot) {
  std::uint64_t ticket = ticket_.load();
  do {
    if ((ticket & FIELD) >= ((ticket >> FIELD_BITS) & FIELD)) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket + 1));
  call_(body_, static_cast<int>(ticket & FIELD), slot);
  done_.fetch_add(1);
  return true;
}

void Pool::run(int count, Call call, void* body) {
  caller_ = current_processor();
  call_ = call;
  body_ = body;
  done_ = 0;
  round_++;
  ticket_ = round_ << (2 * FIELD_BITS) | static_cast<std::uint64_t>(count) << FIELD_BITS;
  if (sleepers_ > 0) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
  while (work(0)) {
  }
  for (int spins = 0; done_ != count; spins++) {
    if (spins < SPINS) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::keep_clear_of_caller() const {
  const int caller = caller_;
  if (caller >= 0 && current_processor() == caller) processors_.leave(caller);
}

void Pool::serve(int slot) {
  const FlushSubnormals flush;
  while (!stopping_) {
    bool found = false;
    for (int spins = 0; spins < SPINS && !found; spins++) {
      found = work(slot);
      if (!found) pause();
    }
    if (found) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_++;
    wake_.wait(lock, [this] { return waiting() || stopping_; });
    sleepers_--;
    lock.unlock();
    keep_clear_of_caller();
  }
}

}  // namespace mobilenetv2
