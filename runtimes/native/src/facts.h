// The state of this machine just before a measurement: `DeviceFacts` of edge.measurement, in the same words.
#pragma once

#include <string>

#include "json.h"

namespace edge {

// Watches /proc/stat for a quarter of a second, to see whether others are using the machine.
void write_facts(Writer& out, const std::string& device);

// x86_64 or aarch64.
std::string architecture();

}  // namespace edge
