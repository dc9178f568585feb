#include "npz.h"

#include <charconv>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "files.h"
#include "inflate.h"

namespace edge {
namespace {

[[noreturn]] void unreadable(const std::string& what) { throw std::runtime_error(what); }

// A little-endian number of `width` bytes; std::runtime_error where the file ends before it.
uint32_t field(std::string_view data, size_t place, int width) {
  if (place > data.size() || data.size() - place < static_cast<size_t>(width)) unreadable("it is cut short");
  uint32_t found = 0;
  for (int i = 0; i < width; ++i) found |= uint32_t{static_cast<uint8_t>(data[place + i])} << (8 * i);
  return found;
}

// Where the end-of-central-directory record begins: the last thing in the file but for a comment.
size_t directory_end(std::string_view data) {
  const size_t place = data.rfind("PK\5\6");
  if (place == std::string_view::npos) unreadable("it is cut short, or no zip");
  return place;
}

uint32_t crc32(const std::vector<uint8_t>& data) {
  uint32_t crc = ~uint32_t{0};
  for (const uint8_t byte : data) {
    crc ^= byte;
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  return ~crc;
}

// The value of `key` in the header, a Python dict literal as numpy writes it: {'descr': '<f4', 'shape': (1, 2), ...}.
std::string_view entry(std::string_view header, std::string_view key) {
  const size_t place = header.find("'" + std::string(key) + "': ");
  if (place == std::string_view::npos) unreadable("an array has no '" + std::string(key) + "'");
  return header.substr(place + key.size() + 4);
}

std::vector<int64_t> shape_of(std::string_view text) {
  if (text.empty() || text[0] != '(') unreadable("an array has no shape");
  std::vector<int64_t> shape;
  const char *place = text.data() + 1, *end = text.data() + text.size();
  size_t product = 1;
  while (place != end && *place != ')') {
    int64_t size = 0;
    const auto read = std::from_chars(place, end, size);
    if (read.ec != std::errc() || size < 0) unreadable("an array has no shape");
    shape.push_back(size);
    if (__builtin_mul_overflow(product, static_cast<size_t>(size), &product) || product > (size_t{1} << 40)) {
      unreadable("an array is too large");
    }
    place = read.ptr;
    while (place != end && (*place == ',' || *place == ' ')) ++place;
  }
  return shape;
}

Tensor array(const std::vector<uint8_t>& bytes) {
  const std::string_view data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (data.substr(0, 6) != "\x93NUMPY") unreadable("a member is no array");
  const bool wide = field(data, 6, 1) > 1;
  const size_t length = field(data, 8, wide ? 4 : 2), start = wide ? 12 : 10;
  if (length > data.size() - start) unreadable("an array is cut short");
  const std::string_view header = data.substr(start, length);
  if (entry(header, "fortran_order").substr(0, 5) != "False") unreadable("an array is not in C order");
  const std::string_view descr = entry(header, "descr");
  if (descr.size() < 5 || descr[0] != '\'' || descr[4] != '\'') unreadable("an array has a dtype that edge does not know");
  Tensor found(dtype_of_numpy(std::string(descr.substr(1, 3))), {});
  std::vector<int64_t> shape = shape_of(entry(header, "shape"));
  size_t wanted = size_of(found.dtype);
  for (const int64_t size : shape) wanted *= static_cast<size_t>(size);
  if (wanted != data.size() - start - length) unreadable("an array is cut short");
  found = Tensor(found.dtype, std::move(shape));
  std::memcpy(found.data(), bytes.data() + start + length, wanted);
  return found;
}

}  // namespace

Npz::Npz(const std::string& path) : data_(read_file(path)) {
  const std::string_view data(data_);
  const size_t end = directory_end(data);
  const uint32_t count = field(data, end + 10, 2);
  size_t place = field(data, end + 16, 4);
  for (uint32_t i = 0; i < count; ++i) {
    if (data.substr(std::min(place, data.size()), 4) != "PK\1\2") unreadable("its directory is damaged");
    const size_t name = field(data, place + 28, 2), extra = field(data, place + 30, 2), comment = field(data, place + 32, 2);
    if (field(data, place + 8, 2) & 1) unreadable("it is encrypted");
    if (place + 46 + name > data.size()) unreadable("it is cut short");
    members_[std::string(data.substr(place + 46, name))] = Member{
        field(data, place + 10, 2), field(data, place + 16, 4), field(data, place + 20, 4), field(data, place + 24, 4),
        field(data, place + 42, 4),
    };
    place += 46 + name + extra + comment;
  }
}

Tensor Npz::read(const std::string& name) const {
  const auto known = members_.find(name + ".npy");
  if (known == members_.end()) unreadable("it has no array '" + name + "'");
  const Member& member = known->second;
  const std::string_view data(data_);
  if (data.substr(std::min(member.header, data.size()), 4) != "PK\3\4") unreadable("'" + name + "' is damaged");
  const size_t start = member.header + 30 + field(data, member.header + 26, 2) + field(data, member.header + 28, 2);
  if (start > data.size() || member.packed > data.size() - start) unreadable("it is cut short");
  const std::string_view packed = data.substr(start, member.packed);
  std::vector<uint8_t> bytes;
  if (member.method == 8) {
    bytes = inflate(packed, member.size);
  } else if (member.method == 0 && member.packed == member.size) {
    bytes.assign(packed.begin(), packed.end());
  } else {
    unreadable("'" + name + "' is packed in a way that edge does not read");
  }
  if (crc32(bytes) != member.crc) unreadable("'" + name + "' is damaged (its checksum differs)");
  return array(bytes);
}

}  // namespace edge
