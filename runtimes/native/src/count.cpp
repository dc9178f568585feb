// Inferences between marks, for an emulator that counts instructions (see clock.h). Nothing here is a time.
#include <utility>
#include <vector>

#include "answer.h"
#include "bundle.h"
#include "clock.h"
#include "session.h"

namespace edge {
namespace {

// Runs before the counted ones: a runtime does some of its work once, and finds memory for the rest.
constexpr int kWarmup = 3;

int64_t next_mark() { return static_cast<int64_t>(now() / kMark); }

using Marks = std::vector<std::pair<int64_t, int64_t>>;

// The marks around each run. Nothing is allocated in between, so that each run finds the heap as the last one left it.
Marks inferences(Call& call, int64_t runs) {
  Marks marks(static_cast<size_t>(runs));
  for (int i = 0; i < kWarmup; ++i) call.run();
  for (auto& [before, after] : marks) {
    before = next_mark();
    call.run();
    after = next_mark();
  }
  return marks;
}

void write_pair(Writer& out, int64_t before, int64_t after) {
  out.begin_array().value(before).value(after).end_array();
}

}  // namespace

std::string count(const Request& request, const Began& began) {
  const Bundle bundle(request.bundle);
  const auto chosen = bundle.chosen(request.entries);
  began("load");
  count_marks();
  const auto session = open_session(bundle, request.threads);
  // What a reading of the clock costs: two with nothing in between, once the first has found its way.
  next_mark();
  const int64_t before = next_mark(), after = next_mark();
  std::vector<std::vector<Tensor>> inputs;
  std::vector<Marks> marks;
  for (const Entry* entry : chosen) {
    began("count " + entry->name);
    inputs.push_back(bundle.sample(*entry, 0).first);
    marks.push_back(inferences(*session->bind(*entry, inputs.back()), request.runs));
  }

  // The profilers' runs come last: a runtime may not wholly forget that it was profiled.
  Writer out;
  out.begin_object().name("type").value("marked").name("mark_ns").value(static_cast<int64_t>(kMark)).name("empty");
  write_pair(out, before, after);
  out.name("entries").begin_array();
  for (size_t i = 0; i < chosen.size(); ++i) {
    began("operators " + chosen[i]->name);
    Trace trace;
    const auto call = session->bind_traced(*chosen[i], inputs[i], trace);
    for (int run = 0; run < kWarmup; ++run) call->run();
    out.begin_object().name("entry").value(chosen[i]->name).name("inferences").begin_array();
    for (const auto& [first, last] : marks[i]) write_pair(out, first, last);
    trace.runs.erase(trace.runs.begin(), trace.runs.end() - 1);
    out.end_array().name("runs");
    trace.write(out);
    out.end_object();
  }
  return out.end_array().end_object().text();
}

}  // namespace edge
