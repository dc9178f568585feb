// A bundle as edge writes it (docs/bundle.md): its manifest, checked before anything else in it is read.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "json.h"
#include "npz.h"
#include "tensor.h"

namespace edge {

// The folder with the program of the host that exported the bundle (edge.devices.routes): a device is not sent it.
constexpr const char* kExporters = "host/";

struct TensorSpec {
  std::string name;
  Dtype dtype;
  std::vector<int64_t> shape;  // -1: any size
};

struct Entry {
  std::string name, artifact, method;
  std::vector<TensorSpec> inputs, outputs;
  int64_t samples;
  double atol, cosine;
  Json tolerance, cost, errors;  // as the manifest has them, to be passed on; errors are of the stage "lowered"
};

class Bundle {
 public:
  // Opens the folder at `path`. Refuses (BundleError, UsageError) another schema, a path that leads outside, a file that
  // is not there, is a link, or is not what was exported.
  explicit Bundle(const std::string& path);

  std::string root, name;
  std::string runtime, version, abi;
  std::vector<Entry> entries;
  int64_t kernels = 0;  // the ABI of edge's own kernels that the artifacts call, 0 for none

  // UsageError for a name that is not there.
  const Entry& entry(const std::string& name) const;
  // Those named, or all.
  std::vector<const Entry*> chosen(const std::vector<std::string>& names) const;
  std::string file(const std::string& name) const { return root + "/" + name; }
  // The stored inputs and outputs of sample `index`, in the entry's order. InputError if they do not fit it.
  std::pair<std::vector<Tensor>, std::vector<Tensor>> sample(const Entry& entry, int64_t index) const;

 private:
  void check_files(const Json& manifest) const;
};

}  // namespace edge
