// ExecuTorch's event tracer, keeping events as `Trace` has them; and what is checked before a program is loaded.
#pragma once

#include <executorch/runtime/core/event_tracer.h>

#include "bundle.h"
#include "trace.h"

namespace edge {

// Refuses (BundleError) a bundle of another runtime, schema or a newer version, or one that needs another backend.
void check_program(const Bundle& bundle);

// One run of `trace` for each "Execute" block.
class Tracer : public executorch::runtime::EventTracer {
 public:
  using Entry = executorch::runtime::EventTracerEntry;
  template <class T>
  using Result = executorch::runtime::Result<T>;

  explicit Tracer(Trace& trace) : trace_(trace) {}

  void create_event_block(const char* name) override;
  Entry start_profiling(const char* name, executorch::runtime::ChainID chain, executorch::runtime::DebugHandle handle) override;
  void end_profiling(Entry entry) override;
  Entry start_profiling_delegate(const char* name, executorch::runtime::DelegateDebugIntId index) override;
  void end_profiling_delegate(Entry entry, const void* metadata, size_t size) override;
  void log_profiling_delegate(const char* name, executorch::runtime::DelegateDebugIntId index, et_timestamp_t start,
                              et_timestamp_t end, const void* metadata, size_t size) override;

  // Memory and values are not traced.
  void track_allocation(executorch::runtime::AllocatorID, size_t) override {}
  executorch::runtime::AllocatorID track_allocator(const char*) override { return 0; }
  Result<bool> log_evalue(const executorch::runtime::EValue&, executorch::runtime::LoggedEValueType) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, executorch::runtime::DelegateDebugIntId, const executorch::aten::Tensor&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, executorch::runtime::DelegateDebugIntId, const executorch::runtime::ArrayRef<executorch::aten::Tensor>) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, executorch::runtime::DelegateDebugIntId, const int&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, executorch::runtime::DelegateDebugIntId, const bool&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, executorch::runtime::DelegateDebugIntId, const double&) override { return false; }
  void set_delegation_intermediate_output_filter(executorch::runtime::EventTracerFilterBase*) override {}

 private:
  void keep(Event event);

  Trace& trace_;
  bool running_ = false;
  std::vector<std::string> open_;  // names of the events that have begun, by their number
};

}  // namespace edge
