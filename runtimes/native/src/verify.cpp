// The stored samples through the runtime, and how far its outputs are from eager's.
#include <optional>

#include "answer.h"
#include "bundle.h"
#include "compare.h"
#include "facts.h"
#include "session.h"

namespace edge {

std::string verify(const Request& request, const Began& began) {
  const Bundle bundle(request.bundle);
  const auto chosen = bundle.chosen(request.entries);
  began("load");
  const auto session = open_session(bundle, request.threads);
  Writer out;
  out.begin_object().name("type").value("verified").name("checks").begin_array();
  for (const Entry* entry : chosen) {
    began("verify " + entry->name);
    std::vector<std::optional<ErrorStats>> worst(entry->outputs.size());
    for (int64_t index = 0; index < entry->samples; ++index) {
      const auto [inputs, expected] = bundle.sample(*entry, index);
      const auto call = session->bind(*entry, inputs);
      call->run();
      const std::vector<Tensor> actual = call->outputs();
      for (size_t i = 0; i < expected.size(); ++i) {
        const ErrorStats stats = compare(entry->outputs[i].name, expected[i], actual.at(i), *entry);
        if (worst[i]) {
          worst[i]->merge(stats);
        } else {
          worst[i] = stats;
        }
      }
    }
    out.begin_object().name("entry").value(entry->name);
    out.name("where").value(std::string(runtime_name()) + " on " + request.device + " (" + architecture() + ", edge-runner)");
    out.name("samples").value(entry->samples).name("tolerance").value(entry->tolerance).name("outputs").begin_array();
    for (size_t i = 0; i < worst.size(); ++i) worst[i]->write(out, entry->outputs[i].name);
    out.end_array().end_object();
  }
  return out.end_array().end_object().text();
}

}  // namespace edge
