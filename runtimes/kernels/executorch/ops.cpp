// The kernels as operators of an ExecuTorch program, namespace edge; their schemas are in torch_ops.py. Threads are
// ExecuTorch's own pool. Loading this library registers them; loading a second copy aborts the process, as ExecuTorch does
// for every operator that is registered twice.
//
// No type of the C++ standard library crosses to ExecuTorch's libraries, so that any compiler's will do.
#include <executorch/runtime/core/event_tracer_hooks.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/kernel/kernel_runtime_context.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/kernel/thread_parallel_interface.h>

#include "../edge_kernels.h"

namespace {
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::FunctionRef;
using executorch::runtime::Kernel;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

void run(void*, size_t count, edge_task task, void* context) {
  auto some = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) task(context, static_cast<size_t>(i));
  };
  executorch::extension::parallel_for(0, static_cast<int64_t>(count), 1, FunctionRef<void(int64_t, int64_t)>(some));
}

edge_pool pool() { return {run, nullptr, static_cast<size_t>(executorch::extension::get_thread_count())}; }

// The arguments of one call, in the schema's order, each checked for what it is.
class Arguments {
 public:
  Arguments(KernelRuntimeContext& context, Span<EValue*> stack) : context_(context), stack_(stack) {}

  template <class T>
  const T* data(ScalarType type, size_t& elements) {
    const Tensor& tensor = next().toTensor();
    check(tensor.scalar_type() == type);
    elements = static_cast<size_t>(tensor.numel());
    last_ = static_cast<size_t>(tensor.dim() ? tensor.size(tensor.dim() - 1) : 1);
    return reinterpret_cast<const T*>(tensor.const_data_ptr());
  }
  template <class T>
  T* out(ScalarType type, size_t elements) {
    Tensor& tensor = next().toTensor();
    check(tensor.scalar_type() == type && static_cast<size_t>(tensor.numel()) == elements);
    return reinterpret_cast<T*>(tensor.mutable_data_ptr());
  }
  const float* floats(size_t& elements) { return data<float>(ScalarType::Float, elements); }
  const void* packed(size_t& bytes) { return data<uint8_t>(ScalarType::Byte, bytes); }
  size_t last() const { return last_; }  // the last axis of the tensor before
  size_t size() { return static_cast<size_t>(next().toInt()); }
  float real() { return static_cast<float>(next().toDouble()); }
  void check(bool fits) { good_ = good_ && fits; }
  bool good() const { return good_; }
  void finish(int status) {
    if (status || !good_) context_.fail(status == EDGE_NO_MEMORY ? Error::MemoryAllocationFailed : Error::InvalidArgument);
  }

 private:
  EValue& next() { return *stack_[at_++]; }
  KernelRuntimeContext& context_;
  Span<EValue*> stack_;
  size_t at_ = 0, last_ = 0;
  bool good_ = true;
};

void embed(Arguments& a) {
  size_t tokens, bytes;
  const int64_t* ids = a.data<int64_t>(ScalarType::Long, tokens);
  const void* table = a.packed(bytes);
  const size_t rows = a.size(), columns = a.size();
  const int bits = static_cast<int>(a.size());
  float* out = a.out<float>(ScalarType::Float, tokens * columns);
  a.check(bytes == edge_tiled_bytes(bits, rows, columns));
  a.finish(a.good() ? edge_embed(bits, rows, columns, table, tokens, ids, out) : 0);
}

void linear(Arguments& a) {
  size_t elements, bytes;
  const float* x = a.floats(elements);
  const size_t columns = a.last(), tokens = elements / columns;
  const void* packed = a.packed(bytes);
  const size_t rows = a.size();
  const int bits = static_cast<int>(a.size());
  float* out = a.out<float>(ScalarType::Float, tokens * rows);
  a.check(bytes == edge_tiled_bytes(bits, rows, columns));
  const edge_pool threads = pool();
  a.finish(a.good() ? edge_matmul(&threads, bits, rows, columns, packed, tokens, x, out) : 0);
}

void head(Arguments& a) {
  size_t elements, coarse_bytes, fine_bytes;
  const float* x = a.floats(elements);
  const size_t columns = a.last(), tokens = elements / columns;
  const void* coarse = a.packed(coarse_bytes);
  const void* fine = a.packed(fine_bytes);
  const size_t rows = a.size();
  float* out = a.out<float>(ScalarType::Float, tokens * rows);
  a.check(coarse_bytes == edge_tiled_bytes(4, rows, columns) && fine_bytes == coarse_bytes);
  const edge_pool threads = pool();
  a.finish(a.good() ? edge_head(&threads, rows, columns, coarse, fine, tokens, x, out) : 0);
}

void rms_norm(Arguments& a) {
  size_t elements;
  const float* x = a.floats(elements);
  const size_t width = a.last();
  const float eps = a.real();
  float* out = a.out<float>(ScalarType::Float, elements);
  a.finish(a.good() ? edge_rms_norm(elements / width, width, x, eps, nullptr, out) : 0);
}

void relu2_mlp(Arguments& a) {
  size_t elements, up_bytes, down_bytes;
  const float* x = a.floats(elements);
  const size_t width = a.last();
  const void* up = a.packed(up_bytes);
  const void* down = a.packed(down_bytes);
  const size_t hidden = a.size();
  const int bits = static_cast<int>(a.size());
  float* out = a.out<float>(ScalarType::Float, elements);
  a.check(up_bytes == edge_tiled_bytes(bits, hidden, width) && down_bytes == edge_neurons_bytes(bits, hidden, width));
  const edge_pool threads = pool();
  a.finish(a.good() ? edge_relu2_mlp(&threads, bits, width, hidden, up, down, elements / width, x, out, nullptr) : 0);
}

void relu2_mlp_skip(Arguments& a) {
  size_t elements, coarse_bytes, fine_bytes, down_bytes;
  const float* x = a.floats(elements);
  const size_t width = a.last();
  const void* coarse = a.packed(coarse_bytes);
  const void* fine = a.packed(fine_bytes);
  const void* down = a.packed(down_bytes);
  const size_t hidden = a.size();
  float* out = a.out<float>(ScalarType::Float, elements);
  a.check(coarse_bytes == edge_coarse_bytes(hidden, width) && fine_bytes == edge_fine_bytes(hidden, width));
  a.check(down_bytes == edge_neurons_bytes(4, hidden, width));
  const edge_pool threads = pool();
  a.finish(a.good() ? edge_relu2_mlp_skip(&threads, 4, width, hidden, coarse, fine, down, elements / width, x, out, nullptr, nullptr)
                    : 0);
}

void mla(Arguments& a) {
  size_t elements, cached, one, cosines, sines, key_bytes, value_bytes;
  const float* projected = a.floats(elements);
  const size_t wide = a.last(), tokens = elements / wide;
  const uint16_t* cache = a.data<uint16_t>(ScalarType::Half, cached);
  const int64_t* position = a.data<int64_t>(ScalarType::Long, one);
  const float* cos = a.floats(cosines);
  const float* sin = a.floats(sines);
  const void* to_key = a.packed(key_bytes);
  const void* to_value = a.packed(value_bytes);
  edge_mla_shape shape;
  shape.heads = a.size(), shape.nope = a.size(), shape.rope = a.size(), shape.value = a.size(), shape.latent = a.size();
  const float eps = a.real();
  const int bits = static_cast<int>(a.size());
  const size_t row = shape.latent + shape.rope;
  float* out = a.out<float>(ScalarType::Float, tokens * shape.heads * shape.value);
  uint16_t* own = a.out<uint16_t>(ScalarType::Half, tokens * row);
  a.check(wide == shape.heads * (shape.nope + shape.rope) + row && cosines == tokens * shape.rope / 2 && sines == cosines);
  a.check(key_bytes == shape.heads * edge_tiled_bytes(bits, shape.latent, shape.nope));
  a.check(value_bytes == shape.heads * edge_tiled_bytes(bits, shape.value, shape.latent));
  a.check(*position >= 0 && static_cast<uint64_t>(*position) * row <= cached);
  const edge_pool threads = pool();
  a.finish(a.good() ? edge_mla_layer(&threads, &shape, bits, to_key, to_value, tokens, projected, cos, sin, eps,
                                     static_cast<size_t>(*position), cache, own, out)
                    : 0);
}

template <void (*function)(Arguments&), const char* const& name>
void call(KernelRuntimeContext& context, Span<EValue*> stack) {
  executorch::runtime::internal::EventTracerProfileOpScope scope(context.internal_event_tracer(), name);
  Arguments arguments(context, stack);
  function(arguments);
}

// As ExecuTorch's own kernels call themselves in its traces.
constexpr const char* kEmbed = "native_call_edge::embed.out";
constexpr const char* kLinear = "native_call_edge::linear.out";
constexpr const char* kHead = "native_call_edge::head.out";
constexpr const char* kNorm = "native_call_edge::rms_norm.out";
constexpr const char* kMlp = "native_call_edge::relu2_mlp.out";
constexpr const char* kSkip = "native_call_edge::relu2_mlp_skip.out";
constexpr const char* kMla = "native_call_edge::mla.out";

const Kernel kernels[] = {
    Kernel("edge::embed.out", call<embed, kEmbed>),        Kernel("edge::linear.out", call<linear, kLinear>),
    Kernel("edge::rms_norm.out", call<rms_norm, kNorm>),   Kernel("edge::relu2_mlp.out", call<relu2_mlp, kMlp>),
    Kernel("edge::mla.out", call<mla, kMla>),              Kernel("edge::head.out", call<head, kHead>),
    Kernel("edge::relu2_mlp_skip.out", call<relu2_mlp_skip, kSkip>),
};
const Error registered = executorch::runtime::register_kernels({kernels, sizeof kernels / sizeof *kernels});
}  // namespace

extern "C" EDGE_API int edge_executorch_ops_abi() { return registered == Error::Ok ? EDGE_KERNELS_ABI : -1; }
