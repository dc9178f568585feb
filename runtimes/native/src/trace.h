// What a runtime's profiler says of a run: the events that edge's per-operator table is made of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json.h"

namespace edge {

// Times are the clock's nanoseconds. `part` is the delegate's own name for a part of its work, empty for the rest;
// `instruction` is the index in the method that it belongs to, or a kernel's place in the order of calls.
struct Event {
  std::string name;
  int64_t instruction;
  std::string part;
  uint64_t start, end;
};

// The events of each run, in order of their ends.
struct Trace {
  std::vector<std::vector<Event>> runs;

  void write(Writer& out) const {
    out.begin_array();
    for (const auto& run : runs) {
      out.begin_array();
      for (const Event& event : run) {
        out.begin_array().value(event.name).value(event.instruction).value(event.part);
        out.value(static_cast<int64_t>(event.start)).value(static_cast<int64_t>(event.end)).end_array();
      }
      out.end_array();
    }
    out.end_array();
  }
};

}  // namespace edge
