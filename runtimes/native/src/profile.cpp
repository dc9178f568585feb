// The measuring itself: edge.devices.harness in C++, with the same order, limits and message.
//
// Facts of the machine, load, then for each entry point bind, first run, warm-up and timed runs; the profiler's passes
// come last, since a runtime's own profiler slows it down and takes memory. Nothing but the call is between two readings
// of the clock of a timed run. Where the request is paced, the host says when a block of timed runs begins, and how often:
// it reads the sensors meanwhile, and the energy meter around a pass of its own.
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include "answer.h"
#include "bundle.h"
#include "clock.h"
#include "facts.h"
#include "memory.h"
#include "refusal.h"
#include "session.h"

namespace edge {
namespace {

// As in edge.devices.harness.
constexpr int kWarmupCalls = 5;
constexpr double kWarmupPart = 0.25, kMostWarmup = 6.0, kMostSeconds = 60.0;
constexpr int64_t kMostRuns = 100000, kLeastRuns = 3;
// Seconds between two messages of what was measured so far, and of untimed runs after one, while it is on its way.
constexpr double kBlock = 2.0, kRamp = 0.2;
// Runs under the runtime's profiler: XNNPACK's clock has whole microseconds, so that a mean needs many.
constexpr int kLeastTraced = 3, kEnoughTraced = 20, kMostTraced = 100;
constexpr double kTracedSeconds = 0.5, kMostTracedSeconds = 2.0;

struct Timed {
  uint64_t start, end;
};

double us(uint64_t ns) { return std::round(static_cast<double>(ns)) / 1e3; }

double seconds_since(uint64_t begun) { return static_cast<double>(now() - begun) / 1e9; }

void write_optional(Writer& out, const std::optional<int64_t>& value) {
  if (value) {
    out.value(*value);
  } else {
    out.null();
  }
}

// One time line for the process, and the phases on it.
class Phases {
 public:
  explicit Phases(const Began& began) : began_(began), origin_(now()) {}

  uint64_t origin() const { return origin_; }
  std::optional<int64_t> pss() const { return pss_; }
  std::optional<int64_t> peak_pss() const { return peak_pss_; }

  // Runs `work`, which returns how often it called the model; its duration in microseconds.
  template <class Work>
  double run(const std::string& name, const std::string& entry, Work work) {
    began_(entry.empty() ? name : name + " " + entry);
    const uint64_t start = now();
    const int64_t calls = work();
    const uint64_t end = now();
    out_.begin_object().name("name").value(name).name("entry");
    entry.empty() ? out_.null() : out_.value(entry);
    out_.name("start_us").value(us(start - origin_)).name("duration_us").value(us(end - start));
    out_.name("rss_bytes").value(resident().now).name("calls").value(calls).name("pss_bytes");
    pss_ = proportional();
    peak_pss_ = std::max(peak_pss_, pss_);
    write_optional(out_, pss_);
    out_.end_object();
    return us(end - start);
  }

  void begin() { out_.begin_array(); }
  const std::string& end() { return out_.end_array().text(); }
  std::string so_far() const { return Writer(out_).end_array().text(); }

 private:
  const Began& began_;
  uint64_t origin_;
  std::optional<int64_t> pss_, peak_pss_;  // at the end of the last phase, and the most of all
  Writer out_;
};

int64_t warm_up(Call& call, double seconds) {
  const uint64_t begun = now();
  for (int64_t calls = 1;; ++calls) {
    call.run();
    const double took = seconds_since(begun);
    if ((took >= seconds && calls >= kWarmupCalls) || took >= std::max(seconds, kMostWarmup)) return calls;
  }
}

using Rows = std::vector<Timed>;

void ramp_up(Call& call, double seconds) {
  const uint64_t begun = now();
  do {
    call.run();
  } while (seconds_since(begun) < seconds);
}

// The runs, and whether a limit stopped them before there were enough. `told` hears of them every kBlock seconds and at
// the end, if it is there; the time that it takes does not count.
std::pair<Rows, bool> timed(Call& call, int64_t runs, double seconds, const std::function<void(const Rows&)>& told) {
  Rows rows;
  rows.reserve(static_cast<size_t>(std::max(runs, kMostRuns)));
  uint64_t begun = now(), block = begun;
  while (true) {
    const uint64_t start = now();
    call.run();
    const uint64_t end = now();
    rows.push_back({start, end});
    const double took = static_cast<double>(end - begun) / 1e9;
    const auto done = static_cast<int64_t>(rows.size());
    const bool whole = took >= seconds && done >= runs;
    const bool stopped = done >= std::max(kMostRuns, runs) || (took >= std::max(kMostSeconds, 2 * seconds) && done >= kLeastRuns);
    if (whole || stopped) {
      if (told) told(rows);
      return {rows, !whole};
    }
    if (!told || end - block < static_cast<uint64_t>(kBlock * 1e9)) continue;
    told(rows);
    ramp_up(call, kRamp);
    block = now();
    begun += block - end;
  }
}

// At least so many runs and seconds, none timed by itself: how many there were, and the seconds that they took.
std::pair<int64_t, double> repeat(Call& call, int64_t runs, double seconds) {
  const uint64_t begun = now();
  int64_t done = 0;
  double took = 0.0;
  do {
    call.run();
    ++done;
    took = seconds_since(begun);
  } while (done < runs || took < seconds);
  return {done, took};
}

// Tells the host that `phase` can begin, and does `work` for each answer until there is enough.
void paced(const char* phase, const std::string& entry, const Phases& phases, const Said& said, const Heard& heard,
           const std::function<void(const Go&)>& work) {
  Writer out;
  out.begin_object().name("type").value("waiting").name("phase").value(phase).name("entry").value(entry);
  said(out.name("at_us").value(us(now() - phases.origin())).end_object().text());
  for (Go go = parse_go(heard()); go.more; go = parse_go(heard())) work(go);
}

// numpy's default percentile: linear between the two nearest of the sorted values.
double percentile(const std::vector<double>& sorted, double percent) {
  const double place = percent / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

// The latency of the rows from `first` on; their median in microseconds.
double write_latency(Writer& out, const Rows& rows, size_t first) {
  std::vector<double> sorted;
  double sum = 0.0;
  for (size_t i = first; i < rows.size(); ++i) sum += sorted.emplace_back(us(rows[i].end - rows[i].start));
  std::sort(sorted.begin(), sorted.end());
  const double median = percentile(sorted, 50);
  out.begin_object().name("runs").value(sorted.size()).name("min_us").value(sorted.front());
  out.name("mean_us").value(sum / static_cast<double>(sorted.size())).name("p50_us").value(median);
  out.name("p90_us").value(percentile(sorted, 90)).name("p99_us").value(percentile(sorted, 99));
  out.name("max_us").value(sorted.back()).end_object();
  return median;
}

void write_inputs(Writer& out, const Entry& entry, const std::vector<Tensor>& inputs) {
  out.begin_object();
  for (size_t i = 0; i < inputs.size(); ++i) {
    out.name(entry.inputs[i].name).begin_array();
    for (const int64_t size : inputs[i].shape) out.value(size);
    out.end_array();
  }
  out.end_object();
}

// Hears an EntryMeasurement with only the runs since it last heard one, and whether a limit cut those short.
using Sampled = std::function<void(const std::string&, bool)>;

// Measures one entry and writes its EntryMeasurement; its median in microseconds. Of a paced one only the last block is
// written: the host has heard of all, and knows which count.
double measure(Session& session, const Entry& entry, const std::vector<Tensor>& inputs, const Request& request,
               Phases& phases, Writer& out, std::vector<std::string>& warnings, const Sampled& sampled,
               const Said& said, const Heard& heard) {
  std::unique_ptr<Call> call;
  int64_t warmed = 0;
  size_t told = 0;
  std::pair<Rows, bool> found;
  const double bind = phases.run("bind", entry.name, [&] {
    session.use_threads(request.threads_of(entry.name));
    return call = session.bind(entry, inputs), 0;
  });
  const double first = phases.run("first run", entry.name, [&] { return call->run(), 1; });
  phases.run("warm-up", entry.name, [&] { return warmed = warm_up(*call, kWarmupPart * request.seconds); });
  const auto write = [&](Writer& to, const Rows& rows, size_t from) {
    to.begin_object().name("entry").value(entry.name).name("inputs");
    write_inputs(to, entry, inputs);
    to.name("bind_us").value(bind).name("first_us").value(first).name("warmup_runs").value(warmed).name("latency");
    const double median = write_latency(to, rows, from);
    to.name("runs").begin_array();
    for (size_t i = from; i < rows.size(); ++i) {
      to.begin_array().value(us(rows[i].start - phases.origin())).value(us(rows[i].end - rows[i].start)).end_array();
    }
    to.end_array().name("operators").begin_array().end_array();
    to.name("cost").value(entry.cost).name("errors").value(entry.errors).end_object();
    return median;
  };
  phases.run("runs", entry.name, [&] {
    int64_t calls = 0;
    if (!request.paced) {
      found = timed(*call, request.runs, request.seconds, [&](const Rows& rows) {
        Writer news;
        write(news, rows, told);
        told = rows.size();
        sampled(news.text(), false);
      });
      return static_cast<int64_t>(found.first.size());
    }
    paced("runs", entry.name, phases, said, heard, [&](const Go& go) {
      if (go.ramp > 0) ramp_up(*call, go.ramp);
      found = timed(*call, go.runs, go.seconds, nullptr);
      calls += static_cast<int64_t>(found.first.size());
      Writer news;
      write(news, found.first, 0);
      sampled(news.text(), found.second);
    });
    if (calls == 0) throw Refusal("UsageError", "the runner was told to stop before it ran '" + entry.name + "': profile again.");
    return calls;
  });
  const Rows& rows = found.first;
  if (found.second && !request.paced) {
    char took[32];
    std::snprintf(took, sizeof took, "%.1f", static_cast<double>(rows.back().end - rows.front().start) / 1e9);
    warnings.push_back(entry.name + " was stopped after " + std::to_string(rows.size()) + " runs and " + took +
                       " s, short of what was asked for.");
  }
  return write(out, rows, 0);
}

int64_t traced(Session& session, const Entry& entry, const std::vector<Tensor>& inputs, double median, Trace& trace) {
  const auto call = session.bind_traced(entry, inputs, trace);
  for (int i = 0; i < 3; ++i) call->run();
  trace.runs.clear();
  const double least = std::clamp(kMostTracedSeconds * 1e6 / std::max(median, 1.0), double{kLeastTraced}, double{kEnoughTraced});
  const uint64_t begun = now();
  int64_t done = 0;
  while (static_cast<double>(done) < least || (done < kMostTraced && seconds_since(begun) < kTracedSeconds)) {
    call->run();
    ++done;
  }
  return done;
}

}  // namespace

std::string profile(const Request& request, const Began& began, const Said& said, const Heard& heard) {
  const Bundle bundle(request.bundle);
  const auto chosen = bundle.chosen(request.entries);
  std::vector<std::vector<Tensor>> inputs;
  for (const Entry* entry : chosen) inputs.push_back(bundle.sample(*entry, 0).first);

  Writer facts;
  write_facts(facts, request.device);
  Phases phases(began);
  phases.begin();
  std::vector<std::string> warnings;
  const int64_t baseline = resident().now;
  const bool resets = reset_peak();
  std::unique_ptr<Session> session;
  phases.run("load", "", [&] { return session = open_session(bundle, request.threads), 0; });
  const Resident loaded = resident();
  const auto loaded_pss = phases.pss();
  reset_peak();

  const auto write_memory = [&](Writer& to, int64_t run_peak, const std::optional<int64_t>& peak_pss) {
    to.begin_object().name("baseline").value(baseline).name("imported").value(baseline).name("loaded").value(loaded.now);
    to.name("load_peak").value(loaded.peak).name("run_peak").value(run_peak);
    to.name("peak").value(std::max(loaded.peak, run_peak)).name("resets").value(resets);
    write_optional(to.name("loaded_pss"), loaded_pss);
    write_optional(to.name("peak_pss"), peak_pss);
    to.end_object();
  };
  const Sampled sampled = [&](const std::string& entry, bool stopped) {
    Writer out;
    out.begin_object().name("type").value("sampled").name("facts").raw(facts.text()).name("phases").raw(phases.so_far());
    write_memory(out.name("memory"), resident().peak, phases.peak_pss());
    said(out.name("entry").raw(entry).name("whole").value(!stopped).end_object().text());
  };

  Writer entries;
  entries.begin_array();
  std::vector<double> medians;
  for (size_t i = 0; i < chosen.size(); ++i) {
    medians.push_back(measure(*session, *chosen[i], inputs[i], request, phases, entries, warnings, sampled, said, heard));
  }
  entries.end_array();
  const int64_t run_peak = resident().peak;
  const auto peak_pss = phases.peak_pss();

  for (size_t i = 0; i < chosen.size() && request.paced && request.energy; ++i) {
    session->use_threads(request.threads_of(chosen[i]->name));
    const auto call = session->bind(*chosen[i], inputs[i]);
    phases.run("energy", chosen[i]->name, [&] {
      int64_t calls = 0;
      paced("energy", chosen[i]->name, phases, said, heard, [&](const Go& go) {
        const auto [runs, seconds] = repeat(*call, go.runs, go.seconds);
        Writer news;
        news.begin_object().name("type").value("repeated").name("runs").value(runs);
        said(news.name("seconds").value(seconds).end_object().text());
        calls += runs;
      });
      return calls;
    });
  }

  Writer traces;
  traces.begin_array();
  for (size_t i = 0; i < chosen.size() && request.operators; ++i) {
    Trace trace;
    session->use_threads(request.threads_of(chosen[i]->name));
    phases.run("operators", chosen[i]->name, [&] { return traced(*session, *chosen[i], inputs[i], medians[i], trace); });
    traces.begin_object().name("entry").value(chosen[i]->name).name("runs");
    trace.write(traces);
    traces.end_object();
  }
  traces.end_array();

  Writer out;
  out.begin_object().name("type").value("profiled");
  out.name("facts").raw(facts.text()).name("phases").raw(phases.end());
  write_memory(out.name("memory"), run_peak, peak_pss);
  out.name("conditions").begin_object().name("sources").begin_object();
  for (const char* what : {"frequency", "temperature", "throttling", "energy"}) {
    out.name(what).value("not readable: the native runner asks no sensors");
  }
  out.end_object().end_object().name("entries").raw(entries.text()).name("traces").raw(traces.text()).name("warnings").begin_array();
  for (const std::string& sentence : warnings) out.value(sentence);
  return out.end_array().end_object().text();
}

}  // namespace edge
