// SHA-256 (FIPS 180-4) of a file, to know before anything is loaded that a bundle is what was exported.
#pragma once

#include <string>

namespace edge {

// The hash of the open file `descriptor` in hex, read to its end from where it stands; "" if it cannot be read.
std::string sha256_of(int descriptor);

}  // namespace edge
