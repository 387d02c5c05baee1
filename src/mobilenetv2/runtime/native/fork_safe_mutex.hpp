// A mutex that a forked child can take whoever held it in the parent.
#pragma once

#include <mutex>

namespace mobilenetv2 {

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

}  // namespace mobilenetv2
