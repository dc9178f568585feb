#include "tvm/machine.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "facts.h"
#include "files.h"
#include "refusal.h"
#include "session.h"

#ifndef EDGE_APACHE_TVM
#error "build this by `edge build-runner`, which says which TVM it is for"
#endif

namespace edge {
namespace {

constexpr const char* kRequirements = "cpu.json";

void check_machine(const Bundle& bundle, const std::string& artifact) {
  Elf64_Ehdr header{};
  const int descriptor = open(bundle.file(artifact).c_str(), O_RDONLY | O_CLOEXEC);
  const bool whole = read(descriptor, &header, sizeof header) == sizeof header;
  close(descriptor);
  if (!whole || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    throw Refusal("BundleError", "'" + artifact + "' is not a shared library that can be loaded: export it again.");
  }
  const std::string compiled = header.e_machine == EM_X86_64 ? "x86_64" : header.e_machine == EM_AARCH64 ? "aarch64" : "another CPU";
  if (compiled != architecture()) {
    throw Refusal("BundleError", "this bundle is compiled for " + compiled + " and this machine is " + architecture() +
                                     ": run it on the device, or export it with `--target cpu`.");
  }
}

std::set<std::string> words(const std::string& text) {
  std::set<std::string> found;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find(' ', start), text.size());
    if (end > start) found.insert(text.substr(start, end - start));
    start = end + 1;
  }
  return found;
}

void check_cpu(const Bundle& bundle) {
  // Without that line (an emulator may show its host's file) nothing is known, and nothing refused.
  const std::string cpuinfo = try_read("/proc/cpuinfo").value_or("");
  const auto line = line_of(cpuinfo, architecture() == "x86_64" ? "flags" : "Features");
  if (!line) return;
  const std::set<std::string> has = words(*line);
  try {
    const Json required = Json::parse(read_file(bundle.file(kRequirements)));
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

}  // namespace

const char* runtime_name() { return "tvm"; }

std::vector<std::pair<std::string, std::string>> runtime_versions() {
  return {{"tvm", EDGE_APACHE_TVM}, {"tvm_ffi", EDGE_APACHE_TVM_FFI}};
}

void check_library(const Bundle& bundle) {
  if (bundle.runtime != runtime_name()) {
    throw Refusal("BundleError", "this bundle is for " + bundle.runtime + " and this runner is for " + runtime_name() + ": use the other runner.");
  }
  if (bundle.version != EDGE_APACHE_TVM || bundle.abi != EDGE_ABI) {
    throw Refusal("BundleError", "this bundle was compiled by TVM " + bundle.version + " (" + bundle.abi + ") and the runner has TVM " EDGE_APACHE_TVM " (" EDGE_ABI "): export it again.");
  }
  for (const Entry& entry : bundle.entries) check_machine(bundle, entry.artifact);
  check_cpu(bundle);
}

}  // namespace edge
