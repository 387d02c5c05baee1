#include <cstring>

#include "pool.hpp"

namespace mobilenetv2 {
namespace {

constexpr int ROUND = 32;  // bits before a round
constexpr int THREADS = 20;
constexpr std::uint64_t COUNT = (std::uint64_t{1} << THREADS) - 1;
static_assert(COUNT == Tasks::MOST);

}  // namespace

// A loop: round (32 bits), threads (12 bits), tasks (20 bits).
struct Tasks::Ticket {
  std::uint64_t word;

  std::uint64_t round() const { return word >> ROUND; }
  int threads() const { return static_cast<int>(static_cast<std::uint32_t>(word) >> THREADS); }
  int count() const { return static_cast<int>(word & COUNT); }
  // The first task of a thread's range; that of the first thread is never empty.
  int first(int slot) const {
    return static_cast<int>((static_cast<std::int64_t>(count()) * slot + threads() - 1) / threads());
  }
  std::uint32_t size(int slot) const { return static_cast<std::uint32_t>(first(slot + 1) - first(slot)); }
  // Tasks of a range that were claimed in this round, of what its lane says.
  std::uint32_t taken(std::uint64_t claimed) const {
    return claimed >> ROUND == round() ? static_cast<std::uint32_t>(claimed) : 0;
  }
};

void Tasks::begin(int count, int threads, Call call, const void* body, std::size_t body_bytes) {
  begun_ += static_cast<std::uint64_t>(count);
  loop_.call = call;
  std::memcpy(loop_.body, body, body_bytes);
  const std::uint64_t round = (loop_.ticket.load(std::memory_order_relaxed) >> ROUND) + 1;
  // In one order with what threads say that are about to sleep: either they see the loop, or the caller sees them.
  loop_.ticket = round << ROUND | static_cast<std::uint64_t>(threads) << THREADS | static_cast<std::uint64_t>(count);
}

// The next task of the range of `slot`, -1 if there is none. A round ends when every task of it is claimed and done: a
// claim therefore keeps the loop's call and body as they are until its task is done, and whoever comes with the ticket
// of a round that is over finds its ranges used up, or sees that a lane or the ticket has moved on.
int Tasks::claim(int slot, const Ticket& ticket) {
  std::atomic<std::uint64_t>& lane = lanes_[slot].claimed;
  const std::uint32_t size = ticket.size(slot);
  std::uint64_t claimed = lane.load();
  for (;;) {
    const std::uint32_t taken = ticket.taken(claimed);
    if (taken >= size) return -1;
    if (taken == 0 && loop_.ticket.load() != ticket.word) return -1;  // the lane's round may be a newer one
    if (lane.compare_exchange_weak(claimed, ticket.round() << ROUND | (taken + 1))) {
      return ticket.first(slot) + static_cast<int>(taken);
    }
  }
}

// Only the thread itself writes this; whoever sees it sees what its tasks have written.
void Tasks::add_done(int slot, int count) {
  std::atomic<std::uint64_t>& done = lanes_[slot].done;
  done.store(done.load(std::memory_order_relaxed) + static_cast<std::uint64_t>(count), std::memory_order_release);
}

bool Tasks::done() const {
  const Ticket ticket{loop_.ticket.load(std::memory_order_relaxed)};
  std::uint64_t sum = 0;
  for (int slot = 0; slot < ticket.threads(); slot++) sum += lanes_[slot].done.load(std::memory_order_acquire);
  return sum == begun_;
}

bool Tasks::waiting() const {
  const Ticket ticket{loop_.ticket.load()};
  for (int slot = 0; slot < ticket.threads(); slot++) {
    if (ticket.taken(lanes_[slot].claimed.load()) < ticket.size(slot)) return true;
  }
  return false;
}

bool Tasks::work(int slot) {
  const Ticket ticket{loop_.ticket.load(std::memory_order_acquire)};
  Lane& lane = lanes_[slot];
  if (ticket.word == lane.finished || slot >= ticket.threads()) return false;
  int count = 0;
  for (int task; (task = claim(slot, ticket)) >= 0; count++) loop_.call(loop_.body, task, slot);
  lane.finished = ticket.word;
  if (count > 0) add_done(slot, count);
  return count > 0;
}

bool Tasks::help(int slot) {
  const Ticket ticket{loop_.ticket.load(std::memory_order_acquire)};
  if (ticket.word == lanes_[slot].exhausted || slot >= ticket.threads()) return false;
  for (int i = 1; i < ticket.threads(); i++) {
    const int task = claim((slot + i) % ticket.threads(), ticket);
    if (task < 0) continue;
    loop_.call(loop_.body, task, slot);
    add_done(slot, 1);
    return true;
  }
  lanes_[slot].exhausted = ticket.word;
  return false;
}

}  // namespace mobilenetv2
