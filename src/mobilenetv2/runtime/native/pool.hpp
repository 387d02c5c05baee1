// Threads that share the tasks of one loop at a time.
//
// With MNV2_NO_THREADS, for systems that have none, whoever calls does all of them. With MNV2_WEB_WORKERS, in
// WebAssembly, the workers are started from outside (web_pool.cpp), and there is one caller.
#pragma once

#if !defined(MNV2_NO_THREADS)
#include <atomic>
#include <cstdint>
#endif
#if !defined(MNV2_NO_THREADS) && !defined(MNV2_WEB_WORKERS)
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.hpp"
#endif

namespace mobilenetv2 {

#if defined(MNV2_NO_THREADS)

class Mutex {
 public:
  void lock() {}
  void unlock() {}
};

class Pool {
 public:
  explicit Pool(int) {}
  static bool forked() { return false; }
  static int threads() { return 1; }
  template <typename Body>
  void parallel(int count, Body&& body) {
    for (int task = 0; task < count; task++) body(task, 0);
  }
};

#else

// The tasks of one loop at a time, which threads claim one by one.
class Tasks {
 public:
  using Call = void (*)(void*, int, int);

  void begin(int count, Call call, void* body);
  bool work(int slot);   // claims and runs one task, false if there is none
  bool waiting() const;  // whether there is one to be claimed
  bool done(int count) const { return done_ == count; }

 private:
  // Round (24 bits), tasks (20 bits), tasks claimed (20 bits). A claim succeeds only in its own round, which cannot end
  // before the task is done: so `call_` and `body_` may be read after it.
  std::atomic<std::uint64_t> ticket_{0};
  std::atomic<int> done_{0};
  Call call_ = nullptr;
  void* body_ = nullptr;
  std::uint64_t round_ = 0;
};

#if defined(MNV2_WEB_WORKERS)

class Mutex {
 public:
  void lock() {}
  void unlock() {}
};

// Whoever calls, and the workers that have entered mnv2_work so far: a worker that comes late, or never, is not waited
// for, since tasks are claimed.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {}
  static bool forked() { return false; }
  int threads() const { return threads_; }
  template <typename Body>
  void parallel(int count, Body&& body) {
    if (count == 1 || threads_ == 1) {
      for (int task = 0; task < count; task++) body(task, 0);
      return;
    }
    run(count, [](void* at, int task, int slot) { (*static_cast<Body*>(at))(task, slot); }, &body);
  }

 private:
  static void run(int count, Tasks::Call call, void* body);

  int threads_;
};

#else

using Mutex = std::mutex;

// At most `threads - 1` workers, as many as the system gives, and whoever calls. Workers look for work for some ten
// microseconds before they sleep. Tasks are claimed one by one, so a worker that the system does not let run is never
// waited for unless it holds a task. Systems like to wake a worker on its caller's processor, where the two would take
// turns: it then moves to another.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  bool forked() const;  // after fork() the child has no workers
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, slot) for every task from 0 to count - 1; `slot` is less than threads() and differs between tasks
  // that run at the same time. One caller at a time. `count` must be less than 1 << 20. Bodies must not throw.
  template <typename Body>
  void parallel(int count, Body&& body) {
    if (count == 1 || workers_.empty() || forked()) {
      for (int task = 0; task < count; task++) body(task, 0);
      return;
    }
    run(count, [](void* at, int task, int slot) { (*static_cast<Body*>(at))(task, slot); }, &body);
  }

 private:
  void stop();
  void run(int count, Tasks::Call call, void* body);
  void serve(int slot);
  void keep_clear_of_caller() const;

  Processors processors_;
  std::atomic<int> caller_{-1};  // the processor of the last caller
  std::vector<std::thread> workers_;
  long owner_;
  Tasks tasks_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

#endif
#endif

}  // namespace mobilenetv2
