#include "executorch/tracer.h"

#include <executorch/runtime/backend/interface.h>

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "clock.h"
#include "refusal.h"
#include "session.h"

#ifndef EDGE_EXECUTORCH
#error "build this by `edge build-runner`, which says which ExecuTorch it is for"
#endif

namespace edge {
namespace {

// 1, 5, 1 of "1.5.1+cpu"
std::vector<int> release(const std::string& version) {
  std::vector<int> found(3, 0);
  std::sscanf(version.c_str(), "%d.%d.%d", &found[0], &found[1], &found[2]);
  return found;
}

std::string identifier_of(const std::string& path) {
  char head[8] = {};
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool whole = read(descriptor, head, sizeof head) == sizeof head;
  close(descriptor);
  return whole ? std::string(head + 4, 4) : "";
}

}  // namespace

const char* runtime_name() { return "executorch"; }

std::vector<std::pair<std::string, std::string>> runtime_versions() { return {{"executorch", EDGE_EXECUTORCH}}; }

void check_program(const Bundle& bundle) {
  if (bundle.runtime != runtime_name()) {
    throw Refusal("BundleError", "this bundle is for " + bundle.runtime + " and this runner is for " + runtime_name() + ": use the other runner.");
  }
  if (release(EDGE_EXECUTORCH) < release(bundle.version)) {
    throw Refusal("BundleError", "this bundle was made by executorch " + bundle.version + " and the runner has " EDGE_EXECUTORCH ", which is older: build the runner again.");
  }
  const size_t slash = bundle.abi.find('/');
  const std::string identifier = bundle.abi.substr(0, slash), backend = bundle.abi.substr(std::min(slash, bundle.abi.size() - 1) + 1);
  if (bundle.abi != EDGE_ABI) {
    throw Refusal("BundleError", "this bundle has the program schema " + bundle.abi + " and the runner reads " EDGE_ABI ": export it again.");
  }
  if (executorch::runtime::get_backend_class(backend.c_str()) == nullptr) {
    throw Refusal("BundleError", "this bundle needs ExecuTorch's " + backend + ", which the runner lacks: build the runner again.");
  }
  for (const Entry& entry : bundle.entries) {
    if (identifier_of(bundle.file(entry.artifact)) != identifier) {
      throw Refusal("BundleError", "'" + entry.artifact + "' is not an ExecuTorch program of schema " + identifier + ": export it again.");
    }
  }
}

void Tracer::create_event_block(const char* name) {
  running_ = std::string(name) == "Execute";
  if (running_) trace_.runs.emplace_back();
}

Tracer::Entry Tracer::start_profiling(const char* name, executorch::runtime::ChainID chain, executorch::runtime::DebugHandle handle) {
  if (chain == -1) chain = chain_id_, handle = debug_handle_;
  open_.emplace_back(name);
  return {static_cast<int64_t>(open_.size() - 1), chain, handle, now(), executorch::runtime::DelegateDebugIdType::kNone};
}

void Tracer::end_profiling(Entry entry) {
  const uint64_t end = now();
  keep({open_.at(static_cast<size_t>(entry.event_id)), static_cast<int64_t>(entry.debug_handle), "", entry.start_time, end});
}

Tracer::Entry Tracer::start_profiling_delegate(const char* name, executorch::runtime::DelegateDebugIntId index) {
  open_.emplace_back(name != nullptr ? name : std::to_string(index));
  return {static_cast<int64_t>(open_.size() - 1), chain_id_, debug_handle_, now(), executorch::runtime::DelegateDebugIdType::kStr};
}

void Tracer::end_profiling_delegate(Entry entry, const void*, size_t) {
  const uint64_t end = now();
  const std::string& name = open_.at(static_cast<size_t>(entry.event_id));
  keep({"", static_cast<int64_t>(debug_handle_), name, entry.start_time, end});
}

void Tracer::log_profiling_delegate(const char* name, executorch::runtime::DelegateDebugIntId index, et_timestamp_t start,
                                    et_timestamp_t end, const void*, size_t) {
  keep({"", static_cast<int64_t>(debug_handle_), name != nullptr ? name : std::to_string(index), start, end});
}

void Tracer::keep(Event event) {
  if (running_) trace_.runs.back().push_back(std::move(event));
}

}  // namespace edge
