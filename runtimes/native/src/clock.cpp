#include "clock.h"

#include <dlfcn.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace edge {
namespace {

bool counting = false;
uint64_t marks = 0;

uint64_t mark() {
#if defined(__aarch64__)
  // HINT #127: reserved, so that every core takes it for a NOP and no compiler emits it (Arm ARM, C6.2, HINT).
  __asm__ volatile("hint #127" ::: "memory");
#endif
  return ++marks;
}

using Reader = int (*)(clockid_t, timespec*);

Reader system_clock() {
  static const auto found = reinterpret_cast<Reader>(dlsym(RTLD_NEXT, "clock_gettime"));
  return found;
}

}  // namespace

uint64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

void count_marks() { counting = true; }

}  // namespace edge

// Stands before the C library's for this program and every library that it loads.
extern "C" __attribute__((visibility("default"))) int clock_gettime(clockid_t clock, timespec* time) {
  if (!edge::counting) {
    const edge::Reader system = edge::system_clock();
    if (system != nullptr) return system(clock, time);
    return static_cast<int>(syscall(SYS_clock_gettime, clock, time));  // a static program has no other
  }
  const uint64_t ns = edge::mark() * edge::kMark;
  time->tv_sec = static_cast<time_t>(ns / 1000000000u);
  time->tv_nsec = static_cast<long>(ns % 1000000000u);
  return 0;
}
