// ExecuTorch: a program with a method for each entry point, by the core of its C++ API.
//
// Only what passes no type of the C++ standard library is called (Program, Method, allocators, loaders), and not
// extension::Module: the wheel's libraries use another standard library than this program has in it.
#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <optional>

#include "clock.h"
#include "executorch/tracer.h"
#include "refusal.h"
#include "session.h"

// The header of the thread pool is not in the wheel; these are its exported names.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace edge {
namespace {

namespace er = executorch::runtime;
namespace aten = executorch::aten;
using executorch::extension::MallocMemoryAllocator;
using executorch::extension::MmapDataLoader;

// The last complaint of the runtime: its error codes say little.
std::string last_words;

void emit(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message, size_t) {
  std::fprintf(stderr, "%c executorch: %s\n", static_cast<char>(level), message);
  if (level != kError && level != kFatal) return;
  const char* operators = std::strstr(message, "Missing operator");
  if (last_words.empty() || operators) last_words = operators ? operators : message;
}

// The runner's clock for the runtime's profiler too, so that both are on one time line.
et_timestamp_t runner_ticks() { return now(); }
et_tick_ratio_t in_nanoseconds() { return {1, 1}; }

[[noreturn]] void cannot(const char* what, er::Error error) {
  std::string reason = er::to_string(error);
  if (!last_words.empty()) reason += ": " + last_words;
  last_words.clear();
  throw Refusal("BundleError", std::string("ExecuTorch cannot ") + what + " this bundle (" + reason + "): export it again.");
}

template <class T>
T taken(er::Result<T>&& result, const char* what = "load") {
  if (!result.ok()) cannot(what, result.error());
  return std::move(*result);
}

void check(er::Error error, const char* what) {
  if (error != er::Error::Ok) cannot(what, error);
}

aten::ScalarType scalar_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return aten::ScalarType::Float;
    case Dtype::float16: return aten::ScalarType::Half;
    case Dtype::int64: return aten::ScalarType::Long;
    case Dtype::int32: return aten::ScalarType::Int;
    case Dtype::int8: return aten::ScalarType::Char;
    case Dtype::uint8: return aten::ScalarType::Byte;
    case Dtype::boolean: return aten::ScalarType::Bool;
  }
  return aten::ScalarType::Undefined;
}

// A method with the memory that it needs; where it goes, its address stays.
class Loaded {
 public:
  Loaded(const er::Program& program, const char* name, er::EventTracer* tracer) {
    const er::MethodMeta meta = taken(program.method_meta(name));
    for (size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
      const auto size = static_cast<int64_t>(taken(meta.memory_planned_buffer_size(i)));
      buffers_.push_back(Tensor(Dtype::uint8, {size}));
      spans_.push_back({buffers_.back().data(), static_cast<size_t>(size)});
    }
    planned_.emplace(er::Span<er::Span<uint8_t>>(spans_.data(), spans_.size()));
    manager_.emplace(&allocator_, &*planned_, &temporary_);
    method_.emplace(taken(program.load_method(name, &*manager_, tracer)));
    for (size_t i = 0; i < meta.num_outputs(); ++i) {
      const auto output = taken(meta.output_tensor_meta(i));
      if (output.is_memory_planned()) continue;
      outputs_.push_back(Tensor(Dtype::uint8, {static_cast<int64_t>(output.nbytes())}));
      check(method_->set_output_data_ptr(outputs_.back().data(), output.nbytes(), i), "run");
    }
  }
  Loaded(const Loaded&) = delete;

  er::Method& method() { return *method_; }

 private:
  MallocMemoryAllocator allocator_, temporary_;
  std::vector<Tensor> buffers_, outputs_;
  std::vector<er::Span<uint8_t>> spans_;
  std::optional<er::HierarchicalAllocator> planned_;
  std::optional<er::MemoryManager> manager_;
  std::optional<er::Method> method_;  // last: it is destroyed while what it uses is there
};

// An input as the runtime takes it, on the array's own memory.
struct Input {
  explicit Input(const Tensor& value) : value(value), sizes(value.shape.begin(), value.shape.end()) {
    for (size_t i = 0; i < sizes.size(); ++i) order.push_back(static_cast<uint8_t>(i));
    strides.assign(sizes.size(), 1);
    for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max(sizes[i], 1);
    implementation.emplace(scalar_of(value.dtype), static_cast<ssize_t>(sizes.size()), sizes.data(), this->value.data(),
                           order.data(), strides.data());
  }
  Input(const Input&) = delete;

  Tensor value;
  std::vector<aten::SizesType> sizes;
  std::vector<aten::DimOrderType> order;
  std::vector<aten::StridesType> strides;
  std::optional<aten::TensorImpl> implementation;
};

class ExecuTorchCall : public Call {
 public:
  ExecuTorchCall(er::Method& method, const Entry& entry, const std::vector<Tensor>& inputs) : method_(method), entry_(entry) {
    for (const Tensor& value : inputs) {
      inputs_.push_back(std::make_unique<Input>(value));
      values_.emplace_back(aten::Tensor(&*inputs_.back()->implementation));
    }
  }

  void run() override {
    check(method_.set_inputs({values_.data(), values_.size()}), "run");
    check(method_.execute(), "run");
  }

  std::vector<Tensor> outputs() override {
    std::vector<Tensor> found;
    for (size_t i = 0; i < method_.outputs_size(); ++i) {
      const er::EValue& value = method_.get_output(i);
      if (!value.isTensor() || i >= entry_.outputs.size()) cannot("run", er::Error::InvalidType);
      const aten::Tensor output = value.toTensor();
      const Dtype dtype = entry_.outputs[i].dtype;
      if (output.scalar_type() != scalar_of(dtype)) cannot("run", er::Error::InvalidType);
      found.emplace_back(dtype, std::vector<int64_t>(output.sizes().begin(), output.sizes().end()));
      std::memcpy(found.back().data(), output.const_data_ptr(), found.back().bytes());
    }
    if (found.size() != entry_.outputs.size()) cannot("run", er::Error::InvalidProgram);
    return found;
  }

 private:
  er::Method& method_;
  const Entry& entry_;
  std::vector<std::unique_ptr<Input>> inputs_;
  std::vector<er::EValue> values_;
};

// Has a method of its own, since a tracer is given when a method is loaded.
class TracedCall : public Call {
 public:
  TracedCall(const er::Program& program, const Entry& entry, const std::vector<Tensor>& inputs, Trace& trace)
      : tracer_(trace), loaded_(program, entry.method.c_str(), &tracer_), call_(loaded_.method(), entry, inputs) {}

  void run() override { call_.run(); }
  std::vector<Tensor> outputs() override { return call_.outputs(); }

 private:
  Tracer tracer_;
  Loaded loaded_;
  ExecuTorchCall call_;
};

class ExecuTorchSession : public Session {
 public:
  ExecuTorchSession(const Bundle& bundle, int threads) : entries_(bundle.entries) {
    er::runtime_init();
    for (const Entry& entry : bundle.entries) {
      if (!programs_.count(entry.artifact)) {
        auto& loader = loaders_.emplace_back(std::make_unique<MmapDataLoader>(
            taken(MmapDataLoader::from(bundle.file(entry.artifact).c_str(), MmapDataLoader::MlockConfig::NoMlock))));
        programs_.emplace(entry.artifact, taken(er::Program::load(loader.get(), er::Program::Verification::InternalConsistency)));
      }
    }
    use_threads(threads);
  }

  // The pool is one for the process, and XNNPACK's delegates point into it: methods that have some are loaded anew.
  void use_threads(int threads) override {
    if (threads == threads_) return;
    if (delegates()) methods_.clear();
    auto* pool = executorch::extension::threadpool::get_threadpool();
    if (pool != nullptr) pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
    for (const Entry& entry : entries_) {
      if (methods_.count(entry.name)) continue;
      methods_.emplace(entry.name, std::make_unique<Loaded>(programs_.at(entry.artifact), entry.method.c_str(), nullptr));
    }
    threads_ = threads;
  }

  std::unique_ptr<Call> bind(const Entry& entry, const std::vector<Tensor>& inputs) override {
    return std::make_unique<ExecuTorchCall>(methods_.at(entry.name)->method(), entry, inputs);
  }

  std::unique_ptr<Call> bind_traced(const Entry& entry, const std::vector<Tensor>& inputs, Trace& trace) override {
    return std::make_unique<TracedCall>(programs_.at(entry.artifact), entry, inputs, trace);
  }

 private:
  bool delegates() const {
    for (const Entry& entry : entries_) {
      if (taken(programs_.at(entry.artifact).method_meta(entry.method.c_str())).num_backends() > 0) return true;
    }
    return false;
  }

  const std::vector<Entry>& entries_;
  int threads_ = 0;
  std::vector<std::unique_ptr<MmapDataLoader>> loaders_;
  std::map<std::string, er::Program> programs_;
  std::map<std::string, std::unique_ptr<Loaded>> methods_;
};

// edge's own kernels register themselves when their library, which lies beside the program, is loaded. Once only: a second
// registration ends the process.
void load_kernels(const Bundle& bundle) {
  if (bundle.kernels == 0) return;
  if (bundle.kernels != EDGE_KERNELS) {
    throw Refusal("BundleError", "this bundle calls edge's kernels of ABI " + std::to_string(bundle.kernels) + " and the runner has ABI " +
                                     std::to_string(EDGE_KERNELS) + ": export it again.");
  }
  if (dlopen("libedge_kernels_executorch.so", RTLD_NOW) == nullptr) {
    throw Refusal("BundleError", std::string("edge's kernels cannot be loaded (") + dlerror() + "): build the runner again.");
  }
}

}  // namespace

std::unique_ptr<Session> open_session(const Bundle& bundle, int threads) {
  er::register_pal(er::PalImpl::create(nullptr, nullptr, runner_ticks, in_nanoseconds, emit, nullptr, nullptr, "edge-runner"));
  check_program(bundle);
  load_kernels(bundle);
  return std::make_unique<ExecuTorchSession>(bundle, threads);
}

}  // namespace edge
