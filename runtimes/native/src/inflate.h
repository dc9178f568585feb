// Decompression of DEFLATE (RFC 1951), which is what numpy's .npz files are packed with.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace edge {

// The `size` bytes that `packed` holds; std::runtime_error if it is no such stream or another length comes out.
std::vector<uint8_t> inflate(std::string_view packed, size_t size);

}  // namespace edge
