#include "static/program.h"

#include <new>

#include "refusal.h"

namespace edge {

Program::Program(const std::string& weights, int threads) {
  const char* why = nullptr;
  program_ = edge_program_open(&edge_static_plan, weights.c_str(), static_cast<size_t>(threads), &why);
  if (program_ == nullptr) throw Refusal("BundleError", std::string(why) + ": copy the bundle again, or name its weights with --weights.");
}

void Program::use_threads(int threads) {
  if (edge_program_threads(program_, static_cast<size_t>(threads)) != 0) throw std::bad_alloc();
}

Bound Program::bind(uint32_t entry, std::vector<Tensor>& inputs, std::vector<Tensor>& outputs) const {
  std::vector<void*> given, taken;
  for (Tensor& value : inputs) given.push_back(value.data());
  for (Tensor& value : outputs) taken.push_back(value.data());
  Bound bound(edge_bind(program_, entry, given.data(), taken.data()));
  if (!bound) throw std::bad_alloc();
  return bound;
}

void run_program(edge_bound* bound, edge_heard heard, void* self) {
  if (edge_run(bound, heard, self) != 0) throw Refusal("BundleError", std::string("a kernel failed (") + edge_last_error() + "): export the bundle again.");
}

std::vector<int64_t> sizes_of(const edge_value& value) {
  const int64_t* first = edge_static_plan.shapes + value.shape;
  return {first, first + value.rank};
}

}  // namespace edge
