// `--serve`: requests on standard input until it ends, for an app that keeps the program as a child (docs/runner.md).
#pragma once

#include <string>
#include <vector>

namespace edge {

// The exit status: 0, or 2 after a refusal.
int serve(const std::vector<std::string>& arguments);

}  // namespace edge
