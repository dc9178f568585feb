// Inferences between marks, for an emulator that counts instructions (see clock.h). Nothing here is a time.
#include "answer.h"
#include "bundle.h"
#include "clock.h"
#include "session.h"

namespace edge {
namespace {

// Runs before the counted ones: a runtime does some of its work once.
constexpr int kWarmup = 2;
// Runs under the runtime's profiler; the counts of the first are as good as any.
constexpr int kTraced = 1;

int64_t next_mark() { return static_cast<int64_t>(now() / kMark); }

}  // namespace

std::string count(const Request& request, const Began& began) {
  const Bundle bundle(request.bundle);
  const auto chosen = bundle.chosen(request.entries);
  began("load");
  count_marks();
  const auto session = open_session(bundle, request.threads);
  Writer out;
  out.begin_object().name("type").value("marked");
  // What the marking itself costs: two marks with nothing in between.
  const int64_t empty = next_mark();
  out.name("empty").begin_array().value(empty).value(next_mark()).end_array().name("entries").begin_array();
  for (const Entry* entry : chosen) {
    began("count " + entry->name);
    const auto inputs = bundle.sample(*entry, 0).first;
    out.begin_object().name("entry").value(entry->name).name("inferences").begin_array();
    {
      const auto call = session->bind(*entry, inputs);
      for (int i = 0; i < kWarmup; ++i) call->run();
      for (int64_t i = 0; i < request.runs; ++i) {
        const int64_t before = next_mark();
        call->run();
        const int64_t after = next_mark();
        out.begin_array().value(before).value(after).end_array();
      }
    }
    out.end_array().name("mark_ns").value(static_cast<int64_t>(kMark)).name("runs");
    Trace trace;
    const auto call = session->bind_traced(*entry, inputs, trace);
    for (int i = 0; i < kWarmup; ++i) call->run();
    trace.runs.clear();
    for (int i = 0; i < kTraced; ++i) call->run();
    trace.write(out);
    out.end_object();
  }
  return out.end_array().end_object().text();
}

}  // namespace edge
