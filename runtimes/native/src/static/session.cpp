// A static program as the native runner: the model that is linked into it, on a bundle's samples.
#include <sys/stat.h>

#include <memory>
#include <stdexcept>

#include "clock.h"
#include "cpu.h"
#include "refusal.h"
#include "session.h"
#include "static/program.h"

namespace edge {
namespace {

class StaticCall : public Call {
 public:
  StaticCall(const Program& program, uint32_t number, const Entry& entry, std::vector<Tensor> inputs)
      : inputs_(std::move(inputs)) {
    for (const TensorSpec& spec : entry.outputs) outputs_.emplace_back(spec.dtype, spec.shape);
    bound_ = program.bind(number, inputs_, outputs_);
  }

  void run() override { run_program(bound_.get(), nullptr, nullptr); }

  std::vector<Tensor> outputs() override {
    std::vector<Tensor> copies;
    for (const Tensor& value : outputs_) {
      Tensor copy(value.dtype, value.shape);
      std::copy_n(value.data(), value.bytes(), copy.data());
      copies.push_back(std::move(copy));
    }
    return copies;
  }

 protected:
  std::vector<Tensor> inputs_, outputs_;
  Bound bound_;
};

class TracedStaticCall : public StaticCall {
 public:
  TracedStaticCall(const Program& program, uint32_t number, const Entry& entry, std::vector<Tensor> inputs, Trace& trace)
      : StaticCall(program, number, entry, std::move(inputs)), entry_(entry), trace_(trace) {}

  void run() override {
    trace_.runs.emplace_back();
    const uint64_t begun = last_ = now();
    run_program(bound_.get(), hear, this);
    trace_.runs.back().push_back({entry_.name, -1, "", begun, now()});
  }

 private:
  static void hear(void* self, uint32_t place, const char* kernel) {
    auto* call = static_cast<TracedStaticCall*>(self);
    const uint64_t end = now();
    call->trace_.runs.back().push_back({kernel, place, "", call->last_, end});
    call->last_ = now();
  }

  const Entry& entry_;
  Trace& trace_;
  uint64_t last_ = 0;
};

class StaticSession : public Session {
 public:
  StaticSession(const Bundle& bundle, int threads) : program_(weights_of(bundle), threads) {}

  void use_threads(int threads) override { program_.use_threads(threads); }

  std::unique_ptr<Call> bind(const Entry& entry, const std::vector<Tensor>& inputs) override {
    return std::make_unique<StaticCall>(program_, number_of(entry), entry, inputs);
  }

  std::unique_ptr<Call> bind_traced(const Entry& entry, const std::vector<Tensor>& inputs, Trace& trace) override {
    return std::make_unique<TracedStaticCall>(program_, number_of(entry), entry, inputs, trace);
  }

 private:
  // The weights lie beside the artifact, whichever program this is; the exporting host's has its own only where they differ.
  static std::string weights_of(const Bundle& bundle) {
    const std::string own = bundle.file(own_folder + kWeights);
    struct stat found {};
    return stat(own.c_str(), &found) == 0 ? own : bundle.file(kWeights);
  }

  static uint32_t number_of(const Entry& entry) {
    const auto refuse = [&] {
      throw Refusal("BundleError", "entry point '" + entry.name + "' of this bundle is not what this program holds: run the bundle's own program.");
    };
    const edge_plan& plan = edge_static_plan;
    uint32_t number = 0;
    while (number < plan.entry_count && entry.method != plan.entries[number].name) ++number;
    if (number == plan.entry_count) refuse();
    const edge_entry& planned = plan.entries[number];
    const auto check = [&](const std::vector<TensorSpec>& specs, const edge_value* values, uint32_t count) {
      if (specs.size() != count) refuse();
      for (uint32_t i = 0; i < count; ++i) {
        if (specs[i].name != values[i].name || name_of(specs[i].dtype) != std::string(values[i].dtype) || specs[i].shape != sizes_of(values[i])) refuse();
      }
    };
    check(entry.inputs, planned.inputs, planned.input_count);
    check(entry.outputs, planned.outputs, planned.output_count);
    return number;
  }

  Program program_;
};

}  // namespace

const char* runtime_name() { return "static"; }

std::vector<std::pair<std::string, std::string>> runtime_versions() { return {{"static", EDGE_STATIC_ABI}}; }

std::unique_ptr<Session> open_session(const Bundle& bundle, int threads) {
  if (bundle.runtime != runtime_name() || bundle.abi != EDGE_STATIC_ABI) {
    throw Refusal("BundleError", "this bundle is for " + bundle.runtime + " (" + bundle.abi + ") and this program is " EDGE_STATIC_ABI ": use the bundle's own program, or export it again.");
  }
  check_cpu(bundle, own_folder);
  return std::make_unique<StaticSession>(bundle, threads);
}

}  // namespace edge
