// What machine code in a bundle needs of the CPU: the requirements that its export wrote beside it.
#pragma once

#include "bundle.h"

namespace edge {

constexpr const char* kRequirements = "cpu.json";

// BundleError where this CPU lacks instructions that the code in `folder` ("" or "host/") of the bundle uses: they would end the process.
void check_cpu(const Bundle& bundle, const std::string& folder = "");

}  // namespace edge
