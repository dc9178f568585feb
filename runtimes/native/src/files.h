// Small files, whole: the kernel's in /proc and /sys, and a bundle's own.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace edge {

// All of a file; std::runtime_error if it cannot be read.
std::string read_file(const std::string& path);

// The same without the space around it, or nothing: kernel files may exist and still refuse to be read.
std::optional<std::string> try_read(const std::string& path);

std::string_view trimmed(std::string_view text);

// What follows "key" and a colon on a line of its own ("VmRSS:  12 kB", "model name : ..."), or nothing.
std::optional<std::string> line_of(std::string_view text, std::string_view key);

}  // namespace edge
