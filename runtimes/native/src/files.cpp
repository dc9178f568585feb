#include "files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace edge {

std::string read_file(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw std::runtime_error(std::strerror(errno));
  std::string data;
  char buffer[65536];
  ssize_t got;
  while ((got = read(descriptor, buffer, sizeof buffer)) > 0) data.append(buffer, static_cast<size_t>(got));
  const int error = errno;
  close(descriptor);
  if (got < 0) throw std::runtime_error(std::strerror(error));
  return data;
}

std::optional<std::string> try_read(const std::string& path) {
  try {
    return std::string(trimmed(read_file(path)));
  } catch (const std::runtime_error&) {
    return std::nullopt;
  }
}

std::string_view trimmed(std::string_view text) {
  const std::string_view space(" \t\r\n\0", 5);
  const size_t from = text.find_first_not_of(space);
  if (from == std::string_view::npos) return "";
  return text.substr(from, text.find_last_not_of(space) - from + 1);
}

std::optional<std::string> line_of(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos && trimmed(line.substr(0, colon)) == key) {
      return std::string(trimmed(line.substr(colon + 1)));
    }
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return std::nullopt;
}

}  // namespace edge
