// A mutex that a forked child can take whoever held it in the parent.
#pragma once

#include <mutex>

#include "pool.hpp"

namespace mobilenetv2 {

#if defined(MNV2_NO_THREADS) || defined(MNV2_WEB_WORKERS)
using ForkSafeMutex = Mutex;
#else

// fork() waits until it is free, so it is held for moments only, and what it guards is whole in the child.
class ForkSafeMutex {
 public:
  ForkSafeMutex();
  ~ForkSafeMutex();
  ForkSafeMutex(const ForkSafeMutex&) = delete;
  ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

#endif

}  // namespace mobilenetv2
