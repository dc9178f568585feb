#include "tvm/machine.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "cpu.h"
#include "facts.h"
#include "refusal.h"
#include "session.h"

#ifndef EDGE_APACHE_TVM
#error "build this by `edge build-runner`, which says which TVM it is for"
#endif

namespace edge {
namespace {

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
