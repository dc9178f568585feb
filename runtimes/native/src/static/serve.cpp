#include "static/serve.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <map>
#include <new>
#include <set>
#include <stdexcept>

#include "clock.h"
#include "json.h"
#include "refusal.h"
#include "static/program.h"

namespace edge {
namespace {

constexpr size_t kLongestLine = 1 << 20;
constexpr int64_t kMostRepeats = 100000, kMostServing = 1024;

[[noreturn]] void deny(const std::string& sentence, const char* kind = "InputError") { throw Refusal(kind, sentence); }

// Standard input, read in large pieces.
class Input {
 public:
  // As many of `size` bytes as there are.
  size_t read(uint8_t* to, size_t size) {
    size_t done = 0;
    while (done < size) {
      if (next_ < end_) {
        const size_t part = std::min(size - done, end_ - next_);
        std::copy_n(buffer_ + next_, part, to + done);
        next_ += part;
        done += part;
      } else if (size - done >= sizeof buffer_) {
        const size_t part = more(to + done, size - done);  // not by way of the buffer
        if (part == 0) break;
        done += part;
      } else if (!fill()) {
        break;
      }
    }
    return done;
  }

  // The next line without its end; false where the input ends before one begins.
  bool line(std::string& to) {
    to.clear();
    while (true) {
      if (next_ == end_ && !fill()) {
        if (to.empty()) return false;
        deny("the input ends in the middle of a line: end each request with a line end and its bytes.");
      }
      const uint8_t* first = buffer_ + next_;
      const uint8_t* last = std::find(first, static_cast<const uint8_t*>(buffer_ + end_), '\n');
      to.append(first, last);
      next_ = static_cast<size_t>(last - buffer_);
      if (to.size() > kLongestLine) deny("a request's line is longer than 1 MiB: is it a tensor that nothing announced?");
      if (next_ < end_) {
        ++next_;
        return true;
      }
    }
  }

 private:
  static size_t more(uint8_t* to, size_t size) {
    ssize_t got;
    do {
      got = ::read(0, to, size);
    } while (got < 0 && errno == EINTR);
    return got > 0 ? static_cast<size_t>(got) : 0;
  }

  bool fill() {
    next_ = 0;
    end_ = more(buffer_, sizeof buffer_);
    return end_ > 0;
  }

  uint8_t buffer_[1 << 16];
  size_t next_ = 0, end_ = 0;
};

// An entry point with its memory: what is not written stays from run to run.
struct Ready {
  std::vector<Tensor> inputs, outputs;
  Bound bound;
};

// The kernels of a run: name, start and end in nanoseconds after the run's start.
struct Heard {
  struct Row {
    const char* kernel;
    uint64_t start, end;
  };
  uint64_t begun = 0, last = 0;
  std::vector<Row> rows;

  static void hear(void* self, uint32_t, const char* kernel) {
    auto* heard = static_cast<Heard*>(self);
    const uint64_t end = now();
    heard->rows.push_back({kernel, heard->last, end});
    heard->last = now();
  }

  void write(Writer& out) const {
    out.begin_array();
    for (const Row& row : rows) {
      out.begin_array().value(row.kernel).value(static_cast<int64_t>(row.start - begun)).value(static_cast<int64_t>(row.end - begun)).end_array();
    }
    out.end_array();
  }
};

struct Options {
  std::string weights;
  int threads = 1;
};

int64_t whole_number(const std::string& text, int64_t most) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) return 0;
  const int64_t found = std::stoll(text);
  return found <= most ? found : 0;
}

std::string beside_this_program() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  const std::string program(path, size > 0 ? static_cast<size_t>(size) : 0);
  return program.substr(0, program.rfind('/') + 1) + kWeights;
}

Options options(const std::vector<std::string>& arguments) {
  Options found;
  for (size_t i = 0; i < arguments.size(); i += 2) {
    if (i + 1 == arguments.size()) deny("'" + arguments[i] + "' has no value: give one.", "UsageError");
    if (arguments[i] == "--weights") {
      found.weights = arguments[i + 1];
    } else if (arguments[i] == "--threads") {
      found.threads = static_cast<int>(whole_number(arguments[i + 1], kMostServing));
      if (found.threads < 1) deny("'" + arguments[i + 1] + "' is no number of threads: give 1 to 1024.", "UsageError");
    } else {
      deny("there is no option '" + arguments[i] + "': --serve takes --weights FILE and --threads N.", "UsageError");
    }
  }
  if (found.weights.empty()) found.weights = beside_this_program();
  return found;
}

void write_values(Writer& out, const edge_value* values, uint32_t count) {
  out.begin_array();
  for (uint32_t i = 0; i < count; ++i) {
    out.begin_object().name("name").value(values[i].name).name("dtype").value(values[i].dtype).name("shape").begin_array();
    for (const int64_t size : sizes_of(values[i])) out.value(size);
    out.end_array().name("bytes").value(static_cast<int64_t>(values[i].bytes)).end_object();
  }
  out.end_array();
}

class Server {
 public:
  Server(FILE* channel, const Options& options) : channel_(channel), threads_(options.threads), program_(options.weights, options.threads) {
    const edge_plan& plan = edge_static_plan;
    std::map<std::string, Tensor> shared;
    for (uint32_t number = 0; number < plan.entry_count; ++number) {
      const edge_entry& entry = plan.entries[number];
      Ready ready;
      for (uint32_t i = 0; i < entry.input_count; ++i) {
        const edge_value& value = entry.inputs[i];
        Tensor& memory = shared[std::string(value.name) + '\n' + value.dtype + text_of(sizes_of(value))];
        if (memory.data() == nullptr) memory = zeros(value);
        ready.inputs.push_back(memory);
      }
      for (uint32_t i = 0; i < entry.output_count; ++i) ready.outputs.push_back(zeros(entry.outputs[i]));
      ready.bound = program_.bind(number, ready.inputs, ready.outputs);
      ready_.push_back(std::move(ready));
    }
  }

  void greet(uint64_t begun) {
    const edge_plan& plan = edge_static_plan;
    Writer out;
    out.begin_object().name("protocol").value(EDGE_STATIC_PROTOCOL).name("model").value(plan.model).name("threads").value(threads_);
    out.name("start_ns").value(static_cast<int64_t>(now() - begun)).name("entries").begin_array();
    for (uint32_t i = 0; i < plan.entry_count; ++i) {
      const edge_entry& entry = plan.entries[i];
      out.begin_object().name("name").value(entry.name);
      write_values(out.name("inputs"), entry.inputs, entry.input_count);
      write_values(out.name("outputs"), entry.outputs, entry.output_count);
      out.end_object();
    }
    say(out.end_array().end_object());
  }

  // One request and its answer; false when there is none left. `id` is the request's as soon as it is known.
  bool answer(int64_t& id) {
    id = -1;
    std::string line;
    if (!input_.line(line)) return false;
    try {
      serve_one(Json::parse(line), id);
    } catch (const Refusal&) {
      throw;
    } catch (const std::runtime_error& error) {
      deny(std::string("a request cannot be read (") + error.what() + "): see the protocol in edge's docs/runner.md.");
    }
    return true;
  }

 private:
  // A new tensor is zeros.
  static Tensor zeros(const edge_value& value) { return {dtype_named(value.dtype), sizes_of(value)}; }

  void serve_one(const Json& request, int64_t& id) {
    id = request.at("id").whole();
    static const std::set<std::string> known = {"id", "entry", "inputs", "outputs", "runs", "threads", "kernels"};
    for (const auto& [name, value] : request.object) {
      if (!known.count(name)) deny("a request has no field '" + name + "': it may have id, entry, inputs, outputs, runs, threads and kernels.");
    }
    const uint32_t number = entry_named(request.at("entry").text());
    const edge_entry& entry = edge_static_plan.entries[number];
    Ready& ready = ready_[number];
    const std::vector<uint32_t> wanted = outputs_of(request, entry);
    const int64_t runs = within(request, "runs", 1, kMostRepeats), threads = within(request, "threads", threads_, kMostServing);
    Heard heard;
    const bool listens = request.has("kernels") && request.at("kernels").truth();
    take_inputs(request, entry, ready);
    program_.use_threads(static_cast<int>(threads));
    std::vector<int64_t> times;
    for (int64_t i = 0; i < runs; ++i) {
      const uint64_t start = now();
      if (listens) heard = {start, start, {}};
      run_program(ready.bound.get(), listens ? Heard::hear : nullptr, &heard);
      times.push_back(static_cast<int64_t>(now() - start));
    }
    Writer out;
    out.begin_object().name("id").value(id).name("ok").value(true).name("ns").value(times.back()).name("times_ns").begin_array();
    for (const int64_t time : times) out.value(time);
    out.end_array();
    if (listens) heard.write(out.name("kernels"));
    out.name("outputs");
    std::vector<edge_value> values;
    for (const uint32_t index : wanted) values.push_back(entry.outputs[index]);
    write_values(out, values.data(), static_cast<uint32_t>(values.size()));
    std::fputs((out.end_object().text() + "\n").c_str(), channel_);
    for (const uint32_t index : wanted) std::fwrite(ready.outputs[index].data(), 1, ready.outputs[index].bytes(), channel_);
    std::fflush(channel_);
  }

  static uint32_t entry_named(const std::string& name) {
    const edge_plan& plan = edge_static_plan;
    std::string known;
    for (uint32_t i = 0; i < plan.entry_count; ++i) {
      if (name == plan.entries[i].name) return i;
      known += (i ? ", " : "") + std::string(plan.entries[i].name);
    }
    deny("there is no entry point '" + name + "': this program has " + known + ".", "UsageError");
  }

  static uint32_t index_of(const std::string& name, const edge_value* values, uint32_t count, const char* what) {
    for (uint32_t i = 0; i < count; ++i) {
      if (name == values[i].name) return i;
    }
    deny(std::string("the entry point has no ") + what + " '" + name + "': look at the program's first line.");
  }

  static std::vector<uint32_t> outputs_of(const Json& request, const edge_entry& entry) {
    std::vector<uint32_t> found;
    if (request.has("outputs")) {
      for (const Json& name : request.at("outputs").items()) found.push_back(index_of(name.text(), entry.outputs, entry.output_count, "output"));
    } else {
      for (uint32_t i = 0; i < entry.output_count; ++i) found.push_back(i);
    }
    return found;
  }

  static int64_t within(const Json& request, const char* name, int64_t otherwise, int64_t most) {
    if (!request.has(name)) return otherwise;
    const int64_t found = request.at(name).whole();
    if (found < 1 || found > most) deny(std::string("'") + name + "' is " + std::to_string(found) + " and must be 1 to " + std::to_string(most) + ".");
    return found;
  }

  void take_inputs(const Json& request, const edge_entry& entry, Ready& ready) {
    if (!request.has("inputs")) {
      for (uint32_t i = 0; i < entry.input_count; ++i) take(entry.inputs[i], ready.inputs[i], 0, entry.inputs[i].bytes);
      return;
    }
    // All of them are checked before the first byte is read.
    struct Piece {
      uint32_t index;
      uint64_t offset, bytes;
    };
    std::vector<Piece> pieces;
    for (const Json& piece : request.at("inputs").items()) {
      for (const auto& [name, value] : piece.object) {
        if (name != "name" && name != "offset" && name != "bytes") deny("an input has no field '" + name + "': it may have name, offset and bytes.");
      }
      const uint32_t index = index_of(piece.at("name").text(), entry.inputs, entry.input_count, "input");
      const auto size = static_cast<int64_t>(entry.inputs[index].bytes);
      const int64_t offset = piece.has("offset") ? piece.at("offset").whole() : 0;
      if (offset < 0 || offset > size) deny("offset " + std::to_string(offset) + " is outside of input '" + entry.inputs[index].name + "', which is " + std::to_string(size) + " bytes: correct it.");
      const int64_t bytes = piece.has("bytes") ? piece.at("bytes").whole() : size - offset;
      if (bytes < 0 || bytes > size - offset) deny(std::to_string(bytes) + " bytes at " + std::to_string(offset) + " do not fit input '" + entry.inputs[index].name + "', which is " + std::to_string(size) + " bytes: correct them.");
      pieces.push_back({index, static_cast<uint64_t>(offset), static_cast<uint64_t>(bytes)});
    }
    for (const Piece& piece : pieces) take(entry.inputs[piece.index], ready.inputs[piece.index], piece.offset, piece.bytes);
  }

  void take(const edge_value& value, Tensor& memory, uint64_t offset, uint64_t bytes) {
    const size_t got = input_.read(memory.data() + offset, bytes);
    if (got != bytes) deny("the input ends after " + std::to_string(got) + " of the " + std::to_string(bytes) + " bytes of input '" + value.name + "': send all that a request announces.");
  }

  void say(const Writer& out) {
    std::fputs((out.text() + "\n").c_str(), channel_);
    std::fflush(channel_);
  }

  FILE* channel_;
  int threads_;
  Program program_;
  Input input_;
  std::vector<Ready> ready_;
};

int failed(FILE* channel, int64_t id, const char* kind, const std::string& sentence) {
  Writer out;
  out.begin_object().name("id").value(id).name("ok").value(false).name("kind").value(kind).name("sentence").value(sentence).end_object();
  std::fputs((out.text() + "\n").c_str(), channel);
  std::fflush(channel);
  return 2;
}

}  // namespace

int serve(const std::vector<std::string>& arguments) {
  const uint64_t begun = now();
  FILE* channel = fdopen(dup(1), "wb");
  dup2(2, 1);  // what anything prints cannot garble an answer
  int64_t id = -1;
  try {
    Server server(channel, options(arguments));
    server.greet(begun);
    while (server.answer(id)) {
    }
    return 0;
  } catch (const Refusal& refusal) {
    return failed(channel, id, refusal.kind, refusal.what());
  } catch (const std::bad_alloc&) {
    return failed(channel, id, "DeviceError", "the device has too little memory for this program: choose a smaller model or scheme.");
  }
}

}  // namespace edge
