// edge-runner: measures or verifies a bundle on a device that has no Python.
//
// In: one request as a line of JSON on standard input, and if it is paced a line whenever the runner waits for one. Out: messages on standard output, a JSON object a line: `began`
// for each phase, `sampled` for what the timed runs gave so far, at last the answer or `failed` with one sentence; exit
// status 0 or 2. Whatever a runtime prints goes to standard error, so that it cannot garble the answer. The same as
// `python -m edge.devices.worker`.
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>

#include "answer.h"
#include "json.h"
#include "refusal.h"
#include "session.h"
#ifdef EDGE_STATIC
#include "static/program.h"
#include "static/serve.h"
#endif

namespace edge {
namespace {

void send(FILE* channel, const std::string& message) {
  std::fputs((message + "\n").c_str(), channel);
  std::fflush(channel);
}

int fail(FILE* channel, const char* kind, const std::string& sentence) {
  Writer out;
  out.begin_object().name("type").value("failed").name("kind").value(kind).name("sentence").value(sentence).end_object();
  send(channel, out.text());
  return 2;
}

// What comes before the first line end; nothing more is read.
std::string next_line() {
  std::string line;
  char next;
  while (read(0, &next, 1) == 1 && next != '\n') line += next;
  return line;
}

std::string answer(const Request& request, const Began& began, const Said& said) {
  switch (request.kind) {
    case Request::Kind::profile: return profile(request, began, said, next_line);
    case Request::Kind::verify: return verify(request, began);
    case Request::Kind::count: return count(request, began);
  }
  return "";
}

int run() {
  FILE* channel = fdopen(dup(1), "wb");
  dup2(2, 1);
  try {
    const Said said = [channel](const std::string& message) { send(channel, message); };
    const Began began = [&said](const std::string& phase) {
      Writer out;
      out.begin_object().name("type").value("began").name("phase").value(phase).end_object();
      said(out.text());
    };
    send(channel, answer(parse_request(next_line()), began, said));
    return 0;
  } catch (const Refusal& refusal) {
    return fail(channel, refusal.kind, refusal.what());
  } catch (const std::bad_alloc&) {
    return fail(channel, "DeviceError", "the device has too little memory for this bundle: choose a smaller model or scheme.");
  } catch (const std::exception& error) {
    return fail(channel, "DeviceError", std::string("the runner failed (") + error.what() + "): report it with the bundle's manifest.");
  }
}

}  // namespace
}  // namespace edge

int main(int argc, char** argv) {
#ifdef EDGE_STATIC
  if (argc > 1 && std::string(argv[1]) == "--serve") return edge::serve({argv + 2, argv + argc});
  if (argc == 2 && std::string(argv[1]) == "--host") edge::own_folder = edge::kExporters, argc = 1;
#endif
  if (argc > 1) {
    // Asked by a person: what it is. Everything else comes as a request.
    std::printf("edge-runner for %s\n", edge::runtime_name());
    for (const auto& [name, version] : edge::runtime_versions()) std::printf("%s %s\n", name.c_str(), version.c_str());
    return std::string(argv[1]) == "--version" ? 0 : 2;
  }
  const int status = edge::run();
  // A runtime's own threads and static objects are in no order to be torn down in: everything is written, so leave.
  std::fflush(stdout);
  _exit(status);
}
