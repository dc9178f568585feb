// The executor (executor.h) for C++: what it holds is freed, what it cannot do is a refusal.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "static/executor.h"
#include "tensor.h"

namespace edge {

// Beside the program, and beside the artifact in a bundle.
constexpr const char* kWeights = "weights.bin";

// Where in the bundle this program and what belongs to it lie: "", or "host/" for that of the machine that exported it.
inline std::string own_folder;

struct Unbind {
  void operator()(edge_bound* bound) const { edge_unbind(bound); }
};
using Bound = std::unique_ptr<edge_bound, Unbind>;

class Program {
 public:
  // Refuses (BundleError) weights that are not there or belong to another program.
  Program(const std::string& weights, int threads);
  ~Program() { edge_program_close(program_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void use_threads(int threads);
  // The tensors' memory is used as it is, and must outlive the call.
  Bound bind(uint32_t entry, std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) const;

 private:
  edge_program* program_;
};

// Refuses (BundleError) what a kernel complains of.
void run_program(edge_bound* bound, edge_heard heard, void* self);

std::vector<int64_t> sizes_of(const edge_value& value);

}  // namespace edge
