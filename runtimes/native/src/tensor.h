// Arrays as a bundle stores them, and the dtypes that edge's manifests name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace edge {

enum class Dtype { float32, float16, int64, int32, int8, uint8, boolean };

// By the manifest's name ("bool") or numpy's ("|b1", "<f4"); std::runtime_error for any other.
Dtype dtype_named(const std::string& name);
Dtype dtype_of_numpy(const std::string& descr);
const char* name_of(Dtype dtype);
size_t size_of(Dtype dtype);

// C-contiguous; the memory begins where the widest kernel wants it.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Dtype dtype, std::vector<int64_t> shape);

  Dtype dtype = Dtype::float32;
  std::vector<int64_t> shape;

  size_t count() const;
  size_t bytes() const { return count() * size_of(dtype); }
  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  // Element `index` as a double, whatever the dtype.
  double at(size_t index) const;

 private:
  std::shared_ptr<uint8_t[]> data_;
};

// "[1, 512]"
std::string text_of(const std::vector<int64_t>& shape);

}  // namespace edge
