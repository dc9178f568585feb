// A loaded bundle, ready to run: one implementation a runtime, chosen when the runner is built.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bundle.h"
#include "trace.h"

namespace edge {

// An entry point with its inputs bound.
class Call {
 public:
  virtual ~Call() = default;
  // Runs it once; what can be done before is done. Refuses (BundleError) what the runtime cannot run.
  virtual void run() = 0;
  // Copies of what the last run computed.
  virtual std::vector<Tensor> outputs() = 0;
};

class Session {
 public:
  virtual ~Session() = default;
  // What is bound from now on runs with so many threads, at most those that the session was opened for. No call that was
  // bound before may run afterwards.
  virtual void use_threads(int threads) = 0;
  virtual std::unique_ptr<Call> bind(const Entry& entry, const std::vector<Tensor>& inputs) = 0;
  // The same with the runtime's own profiler on: every run adds its events to `trace`.
  virtual std::unique_ptr<Call> bind_traced(const Entry& entry, const std::vector<Tensor>& inputs, Trace& trace) = 0;
};

// Loads every artifact for `threads` threads. Refuses (BundleError) what this runner cannot load, before it is loaded.
std::unique_ptr<Session> open_session(const Bundle& bundle, int threads);

// The runtime's name, and the versions of its packages: what the runner was built with.
const char* runtime_name();
std::vector<std::pair<std::string, std::string>> runtime_versions();

}  // namespace edge
