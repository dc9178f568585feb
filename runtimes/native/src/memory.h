// The memory of this process in bytes, from /proc (proc(5)).
#pragma once

#include <cstdint>
#include <optional>

namespace edge {

struct Resident {
  int64_t now, peak;  // VmRSS and its high-water mark VmHWM
};

Resident resident();

// The proportional set size, which counts a shared page by its part: nothing where the kernel does not say.
std::optional<int64_t> proportional();

// Sets the high-water mark to what is resident now; false where the kernel or the container forbids it.
bool reset_peak();

}  // namespace edge
