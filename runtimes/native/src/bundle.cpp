#include "bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "files.h"
#include "refusal.h"
#include "sha256.h"

namespace edge {
namespace {

constexpr int64_t kSchema = 1;
constexpr const char* kManifest = "manifest.json";
constexpr const char* kSamples = "samples.npz";

std::vector<TensorSpec> specs_of(const Json& json) {
  std::vector<TensorSpec> specs;
  for (const Json& item : json.items()) {
    TensorSpec spec{item.at("name").text(), dtype_named(item.at("dtype").text()), {}};
    for (const Json& size : item.at("shape").items()) {
      spec.shape.push_back(size.kind == Json::Kind::string ? -1 : size.whole());
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

Entry entry_of(const Json& json) {
  Entry entry{json.at("name").text(), json.at("artifact").text(), json.at("method").text(), specs_of(json.at("inputs")),
              specs_of(json.at("outputs")), json.at("samples").whole(), json.at("tolerance").at("atol").number(),
              json.at("tolerance").at("cosine").number(), json.at("tolerance"), json.at("cost"), {}};
  entry.errors.kind = Json::Kind::array;
  for (const Json& stage : json.at("stages").items()) {
    if (stage.at("stage").text() == "lowered") entry.errors = stage.at("outputs");
  }
  return entry;
}

// Relative, POSIX, and inside the bundle.
bool stays_inside(const std::string& name) {
  if (name.empty() || name[0] == '/' || name.find('\\') != std::string::npos || name.find('\0') != std::string::npos) return false;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    const std::string part = name.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = end + 1;
  }
  return true;
}

bool fits(const Tensor& value, const TensorSpec& spec) {
  if (value.dtype != spec.dtype || value.shape.size() != spec.shape.size()) return false;
  for (size_t i = 0; i < spec.shape.size(); ++i) {
    if (spec.shape[i] >= 0 && spec.shape[i] != value.shape[i]) return false;
  }
  return true;
}

std::string base_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

Bundle::Bundle(const std::string& path) : root(path), name(base_name(path)) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) {
    throw Refusal("UsageError", "there is no bundle at " + path + ": check the path, or make one with `edge export`.");
  }
  std::string text;
  try {
    text = read_file(file(kManifest));
  } catch (const std::runtime_error&) {
    throw Refusal("BundleError", path + " is not a bundle (it has no " + kManifest + "): give the folder that `edge export` wrote.");
  }
  try {
    const Json manifest = Json::parse(text);
    const int64_t schema = manifest.at("schema").whole();
    if (schema != kSchema) {
      throw Refusal("BundleError", name + " has bundle schema " + std::to_string(schema) + " and this runner reads " +
                                       std::to_string(kSchema) + ": export it again, or use the edge that wrote it.");
    }
    runtime = manifest.at("runtime").at("name").text();
    version = manifest.at("runtime").at("version").text();
    abi = manifest.at("runtime").at("abi").text();
    if (manifest.has("kernels") && manifest.at("kernels").kind != Json::Kind::null) kernels = manifest.at("kernels").at("abi").whole();
    for (const Json& item : manifest.at("entries").items()) entries.push_back(entry_of(item));
    check_files(manifest);
  } catch (const Refusal&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw Refusal("BundleError", name + "/" + kManifest + " does not follow the schema (" + error.what() + "): export it again.");
  }
}

void Bundle::check_files(const Json& manifest) const {
  std::set<std::string> seen;
  for (const Json& record : manifest.at("files").items()) {
    const std::string& listed = record.at("path").text();
    if (!stays_inside(listed)) {
      throw Refusal("BundleError", "the manifest names the path '" + listed + "', which leads outside the bundle: do not use this bundle.");
    }
    if (!seen.insert(listed).second) {
      throw Refusal("BundleError", name + "/" + kManifest + " lists '" + listed + "' twice: export it again.");
    }
    const int descriptor = open(file(listed).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat found {};
    if (descriptor < 0 && errno == ENOENT && listed.rfind(kExporters, 0) == 0) continue;
    if (descriptor < 0 || fstat(descriptor, &found) != 0 || !S_ISREG(found.st_mode)) {
      if (descriptor >= 0) close(descriptor);
      throw Refusal("BundleError", name + " lacks '" + listed + "', which its manifest lists: copy or export it again.");
    }
    const bool same = found.st_size == record.at("size").whole() && sha256_of(descriptor) == record.at("sha256").text();
    close(descriptor);
    if (!same) {
      throw Refusal("BundleError", "'" + listed + "' in " + name + " is not what was exported (its hash differs): copy or export it again.");
    }
  }
  for (const Entry& entry : entries) {
    if (!seen.count(entry.artifact)) {
      throw Refusal("BundleError", "entry point '" + entry.name + "' of " + name + " names '" + entry.artifact + "', which is not listed: export it again.");
    }
  }
  if (!seen.count(kSamples)) throw Refusal("BundleError", name + " has no " + kSamples + ": export it again.");
}

const Entry& Bundle::entry(const std::string& wanted) const {
  std::string known;
  for (const Entry& found : entries) {
    if (found.name == wanted) return found;
    known += (known.empty() ? "" : ", ") + found.name;
  }
  throw Refusal("UsageError", "the bundle has no entry point '" + wanted + "': it has " + known + ".");
}

std::vector<const Entry*> Bundle::chosen(const std::vector<std::string>& names) const {
  std::vector<const Entry*> found;
  for (const std::string& wanted : names) found.push_back(&entry(wanted));
  if (names.empty()) {
    for (const Entry& each : entries) found.push_back(&each);
  }
  for (const Entry* each : found) {
    if (each->samples < 1) {
      throw Refusal("InputError", name + " has no stored sample of '" + each->name + "' to run: export it again.");
    }
  }
  return found;
}

std::pair<std::vector<Tensor>, std::vector<Tensor>> Bundle::sample(const Entry& entry, int64_t index) const {
  std::pair<std::vector<Tensor>, std::vector<Tensor>> found;
  try {
    const Npz stored(file(kSamples));
    const std::string prefix = entry.name + "/" + std::to_string(index);
    for (const TensorSpec& spec : entry.inputs) {
      found.first.push_back(stored.read(prefix + "/in/" + spec.name));
      if (!fits(found.first.back(), spec)) {
        throw Refusal("InputError", "input '" + spec.name + "' is stored as " + name_of(found.first.back().dtype) + " " +
                                        text_of(found.first.back().shape) + ", which '" + entry.name + "' does not take: export it again.");
      }
    }
    for (const TensorSpec& spec : entry.outputs) found.second.push_back(stored.read(prefix + "/out/" + spec.name));
  } catch (const Refusal&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw Refusal("BundleError", std::string(kSamples) + " in " + name + " cannot be read (" + error.what() + "): export it again.");
  }
  return found;
}

}  // namespace edge
