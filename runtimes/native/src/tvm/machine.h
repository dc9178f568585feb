// What is checked before TVM code is loaded: it would fail somewhere inside, or end the process.
#pragma once

#include "bundle.h"

namespace edge {

// Refuses (BundleError) a bundle of another runtime or version, of another architecture, or compiled for CPU
// instructions that this machine lacks.
void check_library(const Bundle& bundle);

}  // namespace edge
