// ExecuTorch from the start of a process to its first result, and nothing else: a side of benchmarks/static.py.
//
//     start PROGRAM METHOD
//
// Loads the method, says that it is ready, reads its inputs' bytes from standard input, runs it with one thread and writes the
// outputs' bytes. The program is mapped and verified as Program::load does by default.
#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

// The header of the thread pool is not in the wheel; these are its exported names.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace er = executorch::runtime;
namespace aten = executorch::aten;

namespace {

void check(er::Error error) {
  if (error == er::Error::Ok) return;
  std::fprintf(stderr, "ExecuTorch: %s\n", er::to_string(error));
  std::exit(2);
}

template <class T>
T taken(er::Result<T>&& result) {
  check(result.error());
  return std::move(*result);
}

using Bytes = std::vector<uint8_t>;

}  // namespace

int main(int, char** argv) {
  er::runtime_init();
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(1);
  using executorch::extension::MmapDataLoader;
  auto loader = taken(MmapDataLoader::from(argv[1], MmapDataLoader::MlockConfig::NoMlock));
  auto program = taken(er::Program::load(&loader));
  const er::MethodMeta meta = taken(program.method_meta(argv[2]));
  std::vector<std::unique_ptr<uint8_t, decltype(&std::free)>> buffers;
  std::vector<er::Span<uint8_t>> spans;
  const auto buffer = [&](size_t size) {
    buffers.emplace_back(static_cast<uint8_t*>(std::aligned_alloc(64, (size + 63) / 64 * 64 + 64)), &std::free);
    return buffers.back().get();
  };
  for (size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
    const auto size = static_cast<size_t>(taken(meta.memory_planned_buffer_size(i)));
    spans.push_back({buffer(size), size});
  }
  executorch::extension::MallocMemoryAllocator allocator, temporary;
  er::HierarchicalAllocator planned({spans.data(), spans.size()});
  er::MemoryManager manager(&allocator, &planned, &temporary);
  auto method = taken(program.load_method(argv[2], &manager));
  for (size_t i = 0; i < meta.num_outputs(); ++i) {
    const auto output = taken(meta.output_tensor_meta(i));
    if (!output.is_memory_planned()) check(method.set_output_data_ptr(buffer(output.nbytes()), output.nbytes(), i));
  }
  std::puts("{}");
  std::fflush(stdout);

  for (size_t i = 0; i < meta.num_inputs(); ++i) {
    const auto input = taken(meta.input_tensor_meta(i));
    std::vector<aten::SizesType> sizes(input.sizes().begin(), input.sizes().end()), strides(sizes.size(), 1);
    std::vector<aten::DimOrderType> order(input.dim_order().begin(), input.dim_order().end());
    for (size_t axis = sizes.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * sizes[axis];
    uint8_t* data = buffer(input.nbytes());
    if (std::fread(data, 1, input.nbytes(), stdin) != input.nbytes()) return 2;
    aten::TensorImpl tensor(input.scalar_type(), static_cast<ssize_t>(sizes.size()), sizes.data(), data, order.data(), strides.data());
    check(method.set_input(er::EValue(aten::Tensor(&tensor)), i));
  }
  check(method.execute());
  for (size_t i = 0; i < method.outputs_size(); ++i) {
    const aten::Tensor output = method.get_output(i).toTensor();
    std::fwrite(output.const_data_ptr(), 1, output.nbytes(), stdout);
  }
  std::fflush(stdout);
  std::_Exit(0);
}
