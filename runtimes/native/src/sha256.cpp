#include "sha256.h"

#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace edge {
namespace {

constexpr int kPrimes[64] = {2,   3,   5,   7,   11,  13,  17,  19,  23,  29,  31,  37,  41,  43,  47,  53,
                             59,  61,  67,  71,  73,  79,  83,  89,  97,  101, 103, 107, 109, 113, 127, 131,
                             137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197, 199, 211, 223,
                             227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293, 307, 311};

// The first 32 bits of the fraction of the square or cube root of a prime: FIPS 180-4, 4.2.2 and 5.3.3. Newton's
// method on whole numbers would do as well; a double has 53 bits and needs at most 3 before the point.
uint32_t fraction(double root) { return static_cast<uint32_t>(std::floor((root - std::floor(root)) * 4294967296.0)); }

uint32_t rotate(uint32_t word, int by) { return (word >> by) | (word << (32 - by)); }

class Hash {
 public:
  Hash() {
    for (int i = 0; i < 8; ++i) state_[i] = fraction(std::sqrt(static_cast<double>(kPrimes[i])));
    for (int i = 0; i < 64; ++i) constants_[i] = fraction(std::cbrt(static_cast<double>(kPrimes[i])));
  }

  void block(const uint8_t* data) {
    uint32_t words[64];
    for (int i = 0; i < 16; ++i) {
      words[i] = uint32_t{data[4 * i]} << 24 | uint32_t{data[4 * i + 1]} << 16 | uint32_t{data[4 * i + 2]} << 8 |
                 data[4 * i + 3];
    }
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = words[i - 15], b = words[i - 2];
      words[i] = words[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ (a >> 3)) + words[i - 7] +
                 (rotate(b, 17) ^ rotate(b, 19) ^ (b >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (int i = 0; i < 64; ++i) {
      const uint32_t first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + constants_[i] + words[i];
      const uint32_t second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const uint32_t added[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state_[i] += added[i];
  }

  std::string finish(const uint8_t* rest, size_t length, uint64_t total) {
    uint8_t last[128] = {};
    std::memcpy(last, rest, length);
    last[length] = 0x80;
    const size_t size = length < 56 ? 64 : 128;
    for (int i = 0; i < 8; ++i) last[size - 1 - i] = static_cast<uint8_t>(total * 8 >> (8 * i));
    for (size_t place = 0; place < size; place += 64) block(last + place);
    std::string text;
    for (const uint32_t word : state_) {
      for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
    }
    return text;
  }

 private:
  std::array<uint32_t, 8> state_;
  uint32_t constants_[64];
};

}  // namespace

std::string sha256_of(int descriptor) {
  Hash hash;
  std::vector<uint8_t> buffer(1 << 20);
  uint64_t total = 0;
  size_t kept = 0;
  while (true) {
    const ssize_t got = read(descriptor, buffer.data() + kept, buffer.size() - kept);
    if (got < 0) return "";
    total += static_cast<uint64_t>(got);
    kept += static_cast<size_t>(got);
    size_t place = 0;
    for (; kept - place >= 64; place += 64) hash.block(buffer.data() + place);
    std::memmove(buffer.data(), buffer.data() + place, kept - place);
    kept -= place;
    if (got == 0) return hash.finish(buffer.data(), kept, total);
  }
}

}  // namespace edge
