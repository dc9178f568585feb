// The one clock of the runner and of the runtime in it: nanoseconds, or, where instructions are counted, marks.
//
// A counting run is under an emulator whose plugin counts instructions. Each reading of the clock then executes one
// instruction that the plugin knows (`mark`), and returns how many there have been, a microsecond each. So whatever times
// itself by the clock (a runtime's own profiler too) marks the instruction stream, and its "times" are places in the
// plugin's list of counts.
#pragma once

#include <cstdint>

namespace edge {

constexpr uint64_t kMark = 1000;  // nanoseconds that each mark moves the clock on by

// Monotonic nanoseconds.
uint64_t now();

// From here on every reading is a mark.
void count_marks();

}  // namespace edge
