// TVM: compiled entry points in shared libraries, run by the Relax virtual machine of libtvm_runtime.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>

#include "clock.h"
#include "refusal.h"
#include "session.h"
#include "tvm/ffi.h"
#include "tvm/machine.h"

namespace edge {
namespace {

// How often an idle worker looks for work before it sleeps, as in edge.runtimes.tvm.
constexpr const char* kSpins = "3000";
// relax::vm: the allocator that keeps memory between runs; runtime::threading: the mode that only sets the number.
constexpr int64_t kPooledAllocator = 2, kBigCoresFirst = 1;

DLDataType dl_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return {kDLFloat, 32, 1};
    case Dtype::float16: return {kDLFloat, 16, 1};
    case Dtype::int64: return {kDLInt, 64, 1};
    case Dtype::int32: return {kDLInt, 32, 1};
    case Dtype::int8: return {kDLInt, 8, 1};
    case Dtype::uint8: return {kDLUInt, 8, 1};
    case Dtype::boolean: return {kDLBool, 8, 1};
  }
  return {};
}

// Runs `work`, and turns what TVM complains of into a refusal.
template <class Work>
auto guarded(const std::string& what, Work work) {
  try {
    return work();
  } catch (const std::runtime_error& error) {
    throw Refusal("BundleError", "TVM cannot " + what + " (" + error.what() + "): export it again.");
  }
}

// What keeps an array's memory while TVM has a tensor on it.
struct Managed {
  Tensor value;
  DLManagedTensor managed;
};

Any tensor_object(const Tensor& value) {
  auto* kept = new Managed{value, {}};
  DLTensor& tensor = kept->managed.dl_tensor;
  tensor.data = kept->value.data();
  tensor.device = {kDLCPU, 0};
  tensor.ndim = static_cast<int32_t>(kept->value.shape.size());
  tensor.dtype = dl_type(value.dtype);
  tensor.shape = kept->value.shape.data();
  kept->managed.manager_ctx = kept;
  kept->managed.deleter = [](DLManagedTensor* self) { delete static_cast<Managed*>(self->manager_ctx); };
  TVMFFIObjectHandle handle = nullptr;
  if (TVMFFITensorFromDLPack(&kept->managed, 64, 1, &handle) != 0) throw std::runtime_error("it does not take an input");
  TVMFFIAny object{};
  object.type_index = kTVMFFITensor;
  object.v_obj = static_cast<TVMFFIObject*>(handle);
  return Any(object);
}

class TvmCall : public Call {
 public:
  TvmCall(const Any& machine, const Entry& entry, const std::vector<Tensor>& inputs)
      : entry_(entry), function_(module_function(machine, entry.method.c_str())) {
    for (const Tensor& value : inputs) inputs_.push_back(tensor_object(value));
    for (const Any& input : inputs_) arguments_.push_back(input.view());
  }

  void run() override {
    guarded("run '" + entry_.name + "'", [&] { return result_ = call_function(function_, arguments_), 0; });
  }

  std::vector<Tensor> outputs() override {
    return guarded("run '" + entry_.name + "'", [&] {
      std::vector<Tensor> found;
      for (const TVMFFIAny& element : elements(result_)) {
        const DLTensor& output = tensor_of(element);
        if (found.size() == entry_.outputs.size()) throw std::runtime_error("it gives too many outputs");
        const Dtype dtype = entry_.outputs[found.size()].dtype;
        const DLDataType wanted = dl_type(dtype);
        if (output.dtype.code != wanted.code || output.dtype.bits != wanted.bits) throw std::runtime_error("an output has another dtype");
        found.emplace_back(dtype, std::vector<int64_t>(output.shape, output.shape + output.ndim));
        std::memcpy(found.back().data(), static_cast<const char*>(output.data) + output.byte_offset, found.back().bytes());
      }
      if (found.size() != entry_.outputs.size()) throw std::runtime_error("it gives too few outputs");
      return found;
    });
  }

 private:
  const Entry& entry_;
  Any function_;
  std::vector<Any> inputs_;
  std::vector<TVMFFIAny> arguments_;
  Any result_;
};

// Hears of every kernel before and after it; the machine's own builtins (shapes, allocation) are left out.
struct Stopwatch {
  std::vector<Event>* events = nullptr;
  uint64_t start = 0;

  static int hear(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
    const uint64_t at = now();
    *result = any(int64_t{0});  // VMInstrumentReturnKind::kNoOp
    auto* watch = static_cast<Stopwatch*>(self);
    if (watch->events == nullptr || count < 3) return 0;
    const std::string name = text_of(arguments[1]);
    if (name.rfind("vm.builtin.", 0) == 0) return 0;
    if (arguments[2].v_int64 == 0) {
      watch->events->push_back({name, static_cast<int64_t>(watch->events->size()), "", watch->start, at});
    } else {
      watch->start = now();
    }
    return 0;
  }
};

class TracedTvmCall : public Call {
 public:
  TracedTvmCall(const Any& machine, const Entry& entry, const std::vector<Tensor>& inputs, Trace& trace)
      : trace_(trace), set_(module_function(machine, "set_instrument")), call_(machine, entry, inputs) {
    const Any instrument = function_object(&watch_, Stopwatch::hear);
    call_function(set_, {instrument.view()});
  }

  ~TracedTvmCall() override {
    // The machine has no way to forget an instrument: one that keeps nothing takes its place.
    static Stopwatch idle;
    const Any nothing = function_object(&idle, Stopwatch::hear);
    call_function(set_, {nothing.view()});
  }

  void run() override {
    std::vector<Event> events;
    watch_.events = &events;
    const uint64_t start = now();
    call_.run();
    const uint64_t end = now();
    watch_.events = nullptr;
    events.push_back({"run", -1, "", start, end});
    trace_.runs.push_back(std::move(events));
  }

  std::vector<Tensor> outputs() override { return call_.outputs(); }

 private:
  Trace& trace_;
  Stopwatch watch_;
  Any set_;
  TvmCall call_;
};

class TvmSession : public Session {
 public:
  TvmSession(const Bundle& bundle, int threads) {
    // TVM reads these once, before it makes its pool: see edge.runtimes.tvm.prepare.
    setenv("TVM_BIND_THREADS", "0", 0);
    setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
    setenv("TVM_THREAD_POOL_SPIN_COUNT", kSpins, 0);
    guarded("load this bundle", [&] {
      use(threads);
      const Any load = global_function("ffi.ModuleLoadFromFile");
      for (const Entry& entry : bundle.entries) {
        if (machines_.count(entry.artifact)) continue;
        const std::string path = bundle.file(entry.artifact);
        const Any library = call_function(load, {any(path.c_str())});
        Any machine = call_function(module_function(library, "vm_load_executable"), {});
        call_function(module_function(machine, "vm_initialization"), {any(int64_t{kDLCPU}), any(int64_t{0}), any(kPooledAllocator)});
        machines_.emplace(entry.artifact, std::move(machine));
      }
      return 0;
    });
  }

  void use_threads(int threads) override {
    guarded("run with other threads", [&] { return use(threads), 0; });
  }

  std::unique_ptr<Call> bind(const Entry& entry, const std::vector<Tensor>& inputs) override {
    return guarded("bind '" + entry.name + "'", [&] { return std::make_unique<TvmCall>(machines_.at(entry.artifact), entry, inputs); });
  }

  std::unique_ptr<Call> bind_traced(const Entry& entry, const std::vector<Tensor>& inputs, Trace& trace) override {
    return guarded("bind '" + entry.name + "'", [&] { return std::make_unique<TracedTvmCall>(machines_.at(entry.artifact), entry, inputs, trace); });
  }

 private:
  static void use(int threads) {
    call_function(global_function("runtime.config_threadpool"), {any(kBigCoresFirst), any(int64_t{threads})});
  }

  std::map<std::string, Any> machines_;
};

}  // namespace

std::unique_ptr<Session> open_session(const Bundle& bundle, int threads) {
  check_library(bundle);
  return std::make_unique<TvmSession>(bundle, threads);
}

}  // namespace edge
