#include "request.h"

#include <set>

#include "json.h"
#include "refusal.h"

namespace edge {
namespace {

constexpr int kMostThreads = 1024;

[[noreturn]] void refuse(const std::string& why) {
  throw Refusal("UsageError", "the runner was sent a request that it cannot read (" + why + "): use the edge that it was built by.");
}

}  // namespace

Request parse_request(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    const std::string& type = json.at("type").text();
    std::set<std::string> known = {"type", "device", "bundle", "threads", "entries"};
    Request found;
    if (type == "profile") {
      found.kind = Request::Kind::profile;
      // The thermal guard is the host's: a paced runner waits for it, another measures at once.
      known.insert({"runs", "seconds", "operators", "cool_seconds", "energy", "paced", "apart"});
      found.runs = json.at("runs").whole();
      found.seconds = json.at("seconds").number();
      found.operators = json.at("operators").truth();
      if (json.has("paced")) found.paced = json.at("paced").truth();
      if (json.has("energy")) found.energy = json.at("energy").truth();
    } else if (type == "verify") {
      found.kind = Request::Kind::verify;
    } else if (type == "count") {
      found.kind = Request::Kind::count;
      known.insert("runs");
      found.runs = json.at("runs").whole();
    } else {
      refuse("it does not know '" + type + "'");
    }
    for (const auto& [name, value] : json.object) {
      if (!known.count(name)) refuse("it does not know '" + name + "'");
    }
    found.device = json.at("device").text();
    found.bundle = json.at("bundle").text();
    const int64_t threads = json.at("threads").whole();
    if (threads < 1 || threads > kMostThreads) refuse("'threads' is out of range");
    found.threads = static_cast<int>(threads);
    if (json.has("apart")) {
      for (const auto& [name, value] : json.at("apart").object) {
        if (value.whole() < 1 || value.whole() > threads) refuse("'apart' is out of range");
        found.apart.emplace(name, static_cast<int>(value.whole()));
      }
    }
    if (json.has("entries")) {
      for (const Json& name : json.at("entries").items()) found.entries.push_back(name.text());
    }
    if (found.kind != Request::Kind::verify && found.runs < 1) refuse("'runs' is out of range");
    if (found.seconds < 0) refuse("'seconds' is out of range");
    return found;
  } catch (const Refusal&) {
    throw;
  } catch (const std::runtime_error& error) {
    refuse(error.what());
  }
}

Go parse_go(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    const std::string& type = json.at("type").text();
    if (type == "enough") return {};
    if (type != "go") refuse("it does not know '" + type + "'");
    const Go found{true, json.at("runs").whole(), json.at("seconds").number(), json.at("ramp").number()};
    if (found.runs < 1 || found.seconds < 0 || found.ramp < 0) refuse("a block is out of range");
    return found;
  } catch (const Refusal&) {
    throw;
  } catch (const std::runtime_error& error) {
    refuse(error.what());
  }
}

}  // namespace edge
