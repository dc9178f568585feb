#include "facts.h"

#include <dirent.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <utility>
#include <vector>

#include "files.h"
#include "session.h"

namespace edge {
namespace {

constexpr useconds_t kWatch = 250000;  // microseconds; the kernel's ticks are 10 ms
constexpr const char* kCpu = "/sys/devices/system/cpu/cpu0/";

std::string sys(const char* name) { return std::string(kCpu) + name; }

std::optional<double> scaled(const std::string& path, double factor) {
  const auto text = try_read(path);
  if (!text || text->empty()) return std::nullopt;
  return std::atof(text->c_str()) * factor;
}

std::string model() {
  if (auto board = try_read("/proc/device-tree/model")) return *board;
  const std::string cpuinfo = try_read("/proc/cpuinfo").value_or("");
  return line_of(cpuinfo, "model name").value_or(architecture());
}

std::optional<std::string> governor() {
  const auto name = try_read(sys("cpufreq/scaling_governor"));
  const auto driver = try_read(sys("cpufreq/scaling_driver"));
  return name && driver ? *name + " (" + *driver + ")" : name;
}

std::optional<double> frequency() {
  if (const auto found = scaled(sys("cpufreq/scaling_cur_freq"), 1e-3); found && *found > 0) return found;
  const auto line = line_of(try_read("/proc/cpuinfo").value_or(""), "cpu MHz");
  return line ? std::optional<double>(std::atof(line->c_str())) : std::nullopt;
}

// All and idle ticks of every core since boot; the order of fields is proc(5)'s.
std::pair<int64_t, int64_t> ticks() {
  long long at[8] = {};
  const std::string stat = try_read("/proc/stat").value_or("");
  if (std::sscanf(stat.c_str(), "cpu %lld %lld %lld %lld %lld %lld %lld %lld", at, at + 1, at + 2, at + 3, at + 4, at + 5,
                  at + 6, at + 7) != 8) {
    return {0, 0};
  }
  int64_t all = 0;
  for (const long long value : at) all += value;
  return {all, at[3] + at[4]};
}

double busy_share() {
  const auto before = ticks();
  usleep(kWatch);
  const auto after = ticks();
  if (after.first <= before.first) return 0.0;
  const double idle = static_cast<double>(after.second - before.second) / static_cast<double>(after.first - before.first);
  return std::min(std::max(1.0 - idle, 0.0), 1.0);
}

// Bytes of the kernel's "512K" or "8M".
int64_t bytes_of(const std::string& size) {
  const int64_t number = std::atoll(size.c_str());
  switch (size.empty() ? ' ' : size.back()) {
    case 'K': return number << 10;
    case 'M': return number << 20;
    case 'G': return number << 30;
    default: return number;
  }
}

std::map<std::string, int64_t> caches() {
  std::map<std::string, int64_t> found;
  for (int index = 0; index < 16; ++index) {
    const std::string folder = sys("cache/index") + std::to_string(index) + "/";
    const auto kind = try_read(folder + "type"), level = try_read(folder + "level"), size = try_read(folder + "size");
    if (!kind || !level || !size || (*kind != "Data" && *kind != "Unified")) continue;
    found["L" + *level + (*kind == "Data" ? "d" : "")] = bytes_of(*size);
  }
  return found;
}

int cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

void optional(Writer& out, const char* name, const std::optional<double>& value) {
  out.name(name);
  value ? out.value(*value) : out.null();
}

}  // namespace

std::string architecture() {
  utsname names{};
  uname(&names);
  return names.machine;
}

void write_facts(Writer& out, const std::string& device) {
  utsname names{};
  uname(&names);
  double load[3] = {};
  std::sscanf(try_read("/proc/loadavg").value_or("").c_str(), "%lf %lf %lf", load, load + 1, load + 2);
  out.begin_object();
  out.name("device").value(device);
  out.name("system").value(std::string(names.sysname) + " " + names.release);
  out.name("arch").value(names.machine);
  out.name("cpu").value(model());
  out.name("cores").value(cores());
  const auto ruler = governor();
  out.name("governor");
  ruler ? out.value(*ruler) : out.null();
  optional(out, "frequency_mhz", frequency());
  optional(out, "max_frequency_mhz", scaled(sys("cpufreq/cpuinfo_max_freq"), 1e-3));
  optional(out, "temperature_c", scaled("/sys/class/thermal/thermal_zone0/temp", 1e-3));
  out.name("caches").begin_object();
  for (const auto& [name, size] : caches()) out.name(name).value(size);
  out.end_object();
  out.name("ram_bytes").value(static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) >> 20 << 20);
  out.name("load_average").begin_array().value(load[0]).value(load[1]).value(load[2]).end_array();
  out.name("busy").value(busy_share());
  out.name("python").value("none: edge-runner");
  out.name("versions").begin_object();
  for (const auto& [name, version] : runtime_versions()) out.name(name).value(version);
  out.end_object();
  out.end_object();
}

}  // namespace edge
