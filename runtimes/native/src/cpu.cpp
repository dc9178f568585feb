#include "cpu.h"

#include <set>

#include "facts.h"
#include "files.h"
#include "refusal.h"

namespace edge {
namespace {

std::set<std::string> words(const std::string& text) {
  std::set<std::string> found;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find(' ', start), text.size());
    if (end > start) found.insert(text.substr(start, end - start));
    start = end + 1;
  }
  return found;
}

}  // namespace

void check_cpu(const Bundle& bundle, const std::string& folder) {
  // Without that line (an emulator may show its host's file) nothing is known, and nothing refused.
  const std::string cpuinfo = try_read("/proc/cpuinfo").value_or("");
  const auto line = line_of(cpuinfo, architecture() == "x86_64" ? "flags" : "Features");
  if (!line) return;
  const std::set<std::string> has = words(*line);
  try {
    const Json required = Json::parse(read_file(bundle.file(folder + kRequirements)));
    std::string lacks;
    for (const Json& flag : required.at("flags").items()) {
      if (!has.count(flag.text())) lacks += (lacks.empty() ? "" : ", ") + flag.text();
    }
    if (!lacks.empty()) {
      throw Refusal("BundleError", "this bundle is compiled for " + required.at("cpu").text() + ", whose " + lacks + " this CPU lacks: export it for this one.");
    }
  } catch (const Refusal&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw Refusal("BundleError", std::string("'") + kRequirements + "' of this bundle cannot be read (" + error.what() + "): export it again.");
  }
}

}  // namespace edge
