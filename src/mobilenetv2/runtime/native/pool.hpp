// Threads that share the tasks of one loop at a time.
//
// With MNV2_NO_THREADS, for systems that have none, whoever calls does all of them. With MNV2_WEB_WORKERS, in
// WebAssembly, the workers are started from outside (web_pool.cpp), and there is one caller.
#pragma once

#include <cstddef>

#if !defined(MNV2_NO_THREADS)
#include <atomic>
#include <cstdint>
#include <type_traits>
#endif
#if !defined(MNV2_NO_THREADS) && !defined(MNV2_WEB_WORKERS)
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.hpp"
#endif

namespace mobilenetv2 {

constexpr std::size_t LINE_BYTES = 64;

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
  void parallel(int count, const Body& body) {
    for (int task = 0; task < count; task++) body(task, 0);
  }
};

#else

// The tasks of one loop at a time. Each thread has a range of them, so that in loops of one length it mostly reads what
// it has written. It claims them one by one, and later those that others have not come to. What one thread writes and
// another waits for lies on a line of its own: a line takes 50 to 250 ns from one core to another.
class Tasks {
 public:
  using Call = void (*)(const void* body, int task, int slot);
  static constexpr std::size_t BODY_BYTES = 40;
  static constexpr int MOST = (1 << 20) - 1;  // tasks of a loop

  // What one thread writes, others mostly read.
  struct Lane {
    std::atomic<std::uint64_t> claimed{0};  // round (32 bits), tasks of the range that were claimed in it (32 bits)
    // The thread's own: the last ticket whose range has nothing left, and the last of which no range has.
    std::uint64_t finished = 0, exhausted = 0;
    char apart[LINE_BYTES - 3 * sizeof(std::uint64_t)] = {};
    std::atomic<std::uint64_t> done{0};  // tasks that the thread has done since it began
    char apart_too[LINE_BYTES - sizeof(std::uint64_t)] = {};
  };

  // `lanes`: as many as threads at most.
  constexpr explicit Tasks(Lane* lanes) : lanes_(lanes) {}

  // Of the thread whose slot is 0. The loop before is done.
  void begin(int count, int threads, Call call, const void* body, std::size_t body_bytes);
  bool done() const;

  // Of any thread.
  bool work(int slot);   // does what is left of its own range; false if there is nothing
  bool help(int slot);   // does one task of another range; false if there is none
  bool waiting() const;  // whether there is a task to be claimed

 private:
  struct Ticket;

  int claim(int slot, const Ticket& ticket);
  void add_done(int slot, int count);

  // On one line: a thread that sees a new ticket has the rest, too.
  struct alignas(LINE_BYTES) Loop {
    std::atomic<std::uint64_t> ticket{0};
    Call call = nullptr;
    alignas(std::uint64_t) unsigned char body[BODY_BYTES] = {};
  };
  Loop loop_;
  Lane* const lanes_;
  std::uint64_t begun_ = 0;  // tasks of all loops
};

// The loop of `pool` over a body, of which threads get copies; of a large one, where it lies.
template <class P, class Body>
void run_copies(P& pool, int count, const Body& body) {
  if constexpr (sizeof(Body) <= Tasks::BODY_BYTES && std::is_trivially_copyable_v<Body>) {
    const Tasks::Call call = [](const void* at, int task, int slot) { (*static_cast<const Body*>(at))(task, slot); };
    pool.run(count, call, &body, sizeof(Body));
  } else {
    const Body* const at = &body;
    run_copies(pool, count, [at](int task, int slot) { (*at)(task, slot); });
  }
}

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
  void parallel(int count, const Body& body) {
    if (count == 1 || threads_ == 1 || count > Tasks::MOST) {
      for (int task = 0; task < count; task++) body(task, 0);
      return;
    }
    run_copies(*this, count, body);
  }

 private:
  template <class P, class Body>
  friend void run_copies(P& pool, int count, const Body& body);
  void run(int count, Tasks::Call call, const void* body, std::size_t body_bytes);

  int threads_;
};

#else

using Mutex = std::mutex;

// At most `threads - 1` workers, as many as the system gives, and whoever calls. Workers look for work for some ten
// microseconds before they sleep. Tasks are claimed one by one, so a worker that the system does not let run is never
// waited for long unless it holds a task. Systems like to wake a worker on its caller's processor, where the two would
// take turns: it then moves to another.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  bool forked() const;  // after fork() the child has no workers, and does not call parallel()
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, slot) for every task from 0 to count - 1; `slot` is less than threads() and differs between tasks
  // that run at the same time. One caller at a time, which does more than Tasks::MOST tasks alone. Bodies must not
  // throw.
  template <typename Body>
  void parallel(int count, const Body& body) {
    if (count == 1 || workers_.empty() || count > Tasks::MOST) {
      for (int task = 0; task < count; task++) body(task, 0);
      return;
    }
    run_copies(*this, count, body);
  }

 private:
  template <class P, class Body>
  friend void run_copies(P& pool, int count, const Body& body);
  void stop();
  void run(int count, Tasks::Call call, const void* body, std::size_t body_bytes);
  void serve(int slot);
  void wake();

  Processors processors_;
  int kept_off_ = -1;                            // the processor that workers keep off
  std::unique_ptr<std::atomic<int>[]> numbers_;  // of the workers' threads, 0 of those that have not begun
  std::vector<std::thread> workers_;
  long owner_;
  std::unique_ptr<Tasks::Lane[]> lanes_;
  Tasks tasks_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable awake_;
};

#endif
#endif

}  // namespace mobilenetv2
