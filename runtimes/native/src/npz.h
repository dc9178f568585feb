// An .npz: a zip (APPNOTE 6.3) of .npy arrays (numpy.lib.format), stored or deflated. No pickles, ever.
#pragma once

#include <map>
#include <string>

#include "tensor.h"

namespace edge {

class Npz {
 public:
  // Reads the directory of the file at `path`; std::runtime_error says what is wrong with it.
  explicit Npz(const std::string& path);

  // The array that was saved as `name`; std::runtime_error if there is none, or its bytes are damaged.
  Tensor read(const std::string& name) const;

 private:
  struct Member {
    uint32_t method, crc;
    size_t packed, size, header;
  };

  std::string data_;
  std::map<std::string, Member> members_;
};

}  // namespace edge
