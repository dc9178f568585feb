#include "inflate.h"

#include <stdexcept>

namespace edge {
namespace {

[[noreturn]] void damaged() { throw std::runtime_error("its compressed data is damaged"); }

class Bits {
 public:
  explicit Bits(std::string_view data) : data_(data) {}

  uint32_t take(int count) {
    while (held_ < count) {
      if (place_ == data_.size()) damaged();
      bits_ |= static_cast<uint32_t>(static_cast<uint8_t>(data_[place_++])) << held_;
      held_ += 8;
    }
    const uint32_t found = bits_ & ((uint32_t{1} << count) - 1);
    bits_ >>= count;
    held_ -= count;
    return found;
  }

  // Drops what is left of the byte; whole bytes are never held beyond it.
  void align() { bits_ = 0, held_ = 0; }

 private:
  std::string_view data_;
  size_t place_ = 0;
  uint32_t bits_ = 0;
  int held_ = 0;
};

// A canonical Huffman code (3.2.2): how many codes each length has, and the symbols in order of their codes.
class Code {
 public:
  Code(const uint8_t* lengths, int symbols) : symbols_(symbols) {
    for (int i = 0; i < symbols; ++i) ++counts_[lengths[i]];
    counts_[0] = 0;
    int first[16] = {}, left = 1;
    for (int length = 1; length < 16; ++length) {
      left = 2 * left - counts_[length];
      if (left < 0) damaged();  // more codes of this length than there is room for
      if (length < 15) first[length + 1] = first[length] + counts_[length];
    }
    for (int i = 0; i < symbols; ++i) {
      if (lengths[i]) symbols_[first[lengths[i]]++] = i;
    }
  }

  int next(Bits& bits) const {
    int code = 0, first = 0, index = 0;
    for (int length = 1; length < 16; ++length) {
      code |= static_cast<int>(bits.take(1));
      if (code - first < counts_[length]) return symbols_[index + code - first];
      index += counts_[length];
      first = (first + counts_[length]) << 1;
      code <<= 1;
    }
    damaged();
  }

 private:
  int counts_[16] = {};
  std::vector<int> symbols_;
};

// Lengths and distances: the least value of each code and its extra bits (3.2.5).
constexpr int kLengthBase[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
constexpr int kLengthBits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
constexpr int kDistanceBase[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                   193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
constexpr int kDistanceBits[30] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                   6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

void compressed(Bits& bits, const Code& literals, const Code& distances, std::vector<uint8_t>& out, size_t size) {
  while (true) {
    const int symbol = literals.next(bits);
    if (symbol == 256) return;
    if (symbol < 256) {
      if (out.size() == size) damaged();
      out.push_back(static_cast<uint8_t>(symbol));
      continue;
    }
    if (symbol > 285) damaged();
    const size_t length = kLengthBase[symbol - 257] + bits.take(kLengthBits[symbol - 257]);
    const int code = distances.next(bits);
    if (code > 29) damaged();
    const size_t distance = kDistanceBase[code] + bits.take(kDistanceBits[code]);
    if (distance > out.size() || length > size - out.size()) damaged();
    // One by one: the copy may read what it has just written.
    for (size_t i = 0; i < length; ++i) out.push_back(out[out.size() - distance]);
  }
}

void dynamic(Bits& bits, std::vector<uint8_t>& out, size_t size) {
  constexpr int kOrder[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  const int literals = static_cast<int>(bits.take(5)) + 257, distances = static_cast<int>(bits.take(5)) + 1;
  const int described = static_cast<int>(bits.take(4)) + 4;
  uint8_t lengths[19] = {};
  for (int i = 0; i < described; ++i) lengths[kOrder[i]] = static_cast<uint8_t>(bits.take(3));
  const Code code(lengths, 19);
  uint8_t all[320] = {};
  for (int i = 0; i < literals + distances;) {
    const int symbol = code.next(bits);
    if (symbol < 16) {
      all[i++] = static_cast<uint8_t>(symbol);
      continue;
    }
    if (symbol == 16 && i == 0) damaged();
    const uint8_t repeated = symbol == 16 ? all[i - 1] : 0;
    int times = symbol == 16 ? 3 + static_cast<int>(bits.take(2))
                             : symbol == 17 ? 3 + static_cast<int>(bits.take(3)) : 11 + static_cast<int>(bits.take(7));
    if (i + times > literals + distances) damaged();
    while (times--) all[i++] = repeated;
  }
  compressed(bits, Code(all, literals), Code(all + literals, distances), out, size);
}

void fixed(Bits& bits, std::vector<uint8_t>& out, size_t size) {
  uint8_t lengths[288], distances[30];
  for (int i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
  for (uint8_t& length : distances) length = 5;
  compressed(bits, Code(lengths, 288), Code(distances, 30), out, size);
}

void stored(Bits& bits, std::vector<uint8_t>& out, size_t size) {
  bits.align();
  const uint32_t length = bits.take(16);
  if ((bits.take(16) ^ length) != 0xFFFF || length > size - out.size()) damaged();
  for (uint32_t i = 0; i < length; ++i) out.push_back(static_cast<uint8_t>(bits.take(8)));
}

}  // namespace

std::vector<uint8_t> inflate(std::string_view packed, size_t size) {
  // A byte of DEFLATE gives at most 1032: who claims more is lying, and gets no memory.
  if (size / 1032 > packed.size()) damaged();
  std::vector<uint8_t> out;
  out.reserve(size);
  Bits bits(packed);
  for (bool last = false; !last;) {
    last = bits.take(1);
    switch (bits.take(2)) {
      case 0: stored(bits, out, size); break;
      case 1: fixed(bits, out, size); break;
      case 2: dynamic(bits, out, size); break;
      default: damaged();
    }
  }
  if (out.size() != size) damaged();
  return out;
}

}  // namespace edge
