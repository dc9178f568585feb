#include "memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "files.h"

namespace edge {
namespace {

int64_t kilobytes(const std::optional<std::string>& text) { return text ? std::atoll(text->c_str()) * 1024 : 0; }

}  // namespace

Resident resident() {
  const std::string status = try_read("/proc/self/status").value_or("");
  return {kilobytes(line_of(status, "VmRSS")), kilobytes(line_of(status, "VmHWM"))};
}

std::optional<int64_t> proportional() {
  const auto rollup = try_read("/proc/self/smaps_rollup");
  if (!rollup) return std::nullopt;
  const auto line = line_of(*rollup, "Pss");
  if (!line) return std::nullopt;
  return kilobytes(line);
}

bool reset_peak() {
  const int descriptor = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool done = write(descriptor, "5", 1) == 1;
  close(descriptor);
  return done;
}

}  // namespace edge
