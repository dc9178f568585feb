#include "tensor.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace edge {
namespace {

constexpr size_t kAlignment = 64;

struct Row {
  Dtype dtype;
  const char* name;
  const char* numpy;
  size_t size;
};

constexpr Row kRows[] = {
    {Dtype::float32, "float32", "<f4", 4}, {Dtype::float16, "float16", "<f2", 2}, {Dtype::int64, "int64", "<i8", 8},
    {Dtype::int32, "int32", "<i4", 4},     {Dtype::int8, "int8", "|i1", 1},       {Dtype::uint8, "uint8", "|u1", 1},
    {Dtype::boolean, "bool", "|b1", 1},
};

template <class T>
double read(const uint8_t* place) {
  T value;
  std::memcpy(&value, place, sizeof value);
  return static_cast<double>(value);
}

// IEEE 754 binary16.
double half(const uint8_t* place) {
  uint16_t bits;
  std::memcpy(&bits, place, sizeof bits);
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return fraction ? std::nan("") : sign * HUGE_VAL;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

}  // namespace

Dtype dtype_named(const std::string& name) {
  for (const Row& row : kRows) {
    if (name == row.name) return row.dtype;
  }
  throw std::runtime_error("'" + name + "' is no dtype that edge knows");
}

Dtype dtype_of_numpy(const std::string& descr) {
  for (const Row& row : kRows) {
    if (descr == row.numpy) return row.dtype;
  }
  throw std::runtime_error("'" + descr + "' is no dtype that edge knows");
}

const char* name_of(Dtype dtype) { return kRows[static_cast<int>(dtype)].name; }

size_t size_of(Dtype dtype) { return kRows[static_cast<int>(dtype)].size; }

Tensor::Tensor(Dtype dtype, std::vector<int64_t> shape) : dtype(dtype), shape(std::move(shape)) {
  const size_t rounded = (bytes() / kAlignment + 1) * kAlignment;
  auto* memory = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, rounded);
  data_ = std::shared_ptr<uint8_t[]>(memory, std::free);
}

size_t Tensor::count() const {
  size_t product = 1;
  for (const int64_t size : shape) product *= static_cast<size_t>(size);
  return product;
}

double Tensor::at(size_t index) const {
  const uint8_t* place = data() + index * size_of(dtype);
  switch (dtype) {
    case Dtype::float32: return read<float>(place);
    case Dtype::float16: return half(place);
    case Dtype::int64: return read<int64_t>(place);
    case Dtype::int32: return read<int32_t>(place);
    case Dtype::int8: return read<int8_t>(place);
    case Dtype::uint8: return read<uint8_t>(place);
    case Dtype::boolean: return *place ? 1.0 : 0.0;
  }
  return 0.0;
}

std::string text_of(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

}  // namespace edge
