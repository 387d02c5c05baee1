#include "pool.hpp"

namespace mobilenetv2 {
namespace {

constexpr int FIELD_BITS = 20;
constexpr std::uint64_t FIELD = (std::uint64_t{1} << FIELD_BITS) - 1;

}  // namespace

void Tasks::begin(int count, Call call, void* body) {
  call_ = call;
  body_ = body;
  done_ = 0;
  round_++;
  ticket_ = round_ << (2 * FIELD_BITS) | static_cast<std::uint64_t>(count) << FIELD_BITS;
}

bool Tasks::waiting() const {
  const std::uint64_t ticket = ticket_.load();
  return (ticket & FIELD) < ((ticket >> FIELD_BITS) & FIELD);
}

bool Tasks::work(int slot) {
  std::uint64_t ticket = ticket_.load();
  do {
    if ((ticket & FIELD) >= ((ticket >> FIELD_BITS) & FIELD)) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket + 1));
  call_(body_, static_cast<int>(ticket & FIELD), slot);
  done_.fetch_add(1);
  return true;
}

}  // namespace mobilenetv2
