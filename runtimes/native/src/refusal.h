// What the runner refuses, as edge's own errors: the name of an EdgeError class and one sentence with the next step.
#pragma once

#include <stdexcept>
#include <string>

namespace edge {

struct Refusal : std::runtime_error {
  Refusal(const char* kind, const std::string& sentence) : std::runtime_error(sentence), kind(kind) {}
  const char* kind;
};

}  // namespace edge
