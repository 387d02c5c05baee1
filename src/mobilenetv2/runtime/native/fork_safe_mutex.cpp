#include "fork_safe_mutex.hpp"

#include <set>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace mobilenetv2 {
namespace {

struct Registry {
  std::mutex mutex;
  std::set<ForkSafeMutex*> members;
};

Registry& registry();

#if defined(__unix__) || defined(__APPLE__)
void before_fork() {
  registry().mutex.lock();
  for (ForkSafeMutex* member : registry().members) member->lock();
}

void after_fork() {
  for (ForkSafeMutex* member : registry().members) member->unlock();
  registry().mutex.unlock();
}

void watch_forks() { pthread_atfork(before_fork, after_fork, after_fork); }
#else
void watch_forks() {}
#endif

Registry& registry() {
  static Registry* const registry = [] {
    watch_forks();
    return new Registry;  // never destroyed: mutexes may outlive static objects
  }();
  return *registry;
}

}  // namespace

ForkSafeMutex::ForkSafeMutex() {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  registry().members.insert(this);
}

ForkSafeMutex::~ForkSafeMutex() {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  registry().members.erase(this);
}

}  // namespace mobilenetv2
