// What the host asks for: the requests of edge.devices.messages, by their tags.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace edge {

struct Request {
  enum class Kind { profile, verify, count };

  Kind kind;
  std::string device, bundle;
  int threads = 1;
  std::map<std::string, int> apart;  // of a profile: threads of the entry points that differ, fewer than `threads`
  std::vector<std::string> entries;
  int64_t runs = 0;       // at least so many timed runs; of a count: inferences
  double seconds = 0.0;   // and at least so many seconds
  bool operators = false;
  bool paced = false;     // ask before each block of timed runs
  bool energy = false;    // if paced: wait for the host's energy meter, too

  int threads_of(const std::string& entry) const {
    const auto found = apart.find(entry);
    return found == apart.end() ? threads : found->second;
  }
};

// Refuses (UsageError) what is no request, or has a field that this runner does not know: it may change what is meant.
Request parse_request(std::string_view text);

// What a runner that waits is told: so many runs and seconds, after `ramp` seconds that do not count; or no more.
struct Go {
  bool more = false;
  int64_t runs = 0;
  double seconds = 0.0, ramp = 0.0;
};

Go parse_go(std::string_view text);

}  // namespace edge
