// The three answers: what each request is answered by, as one message of edge.devices.messages.
#pragma once

#include <functional>
#include <string>

#include "request.h"

namespace edge {

// Hears the name of each phase as it begins.
using Began = std::function<void(const std::string&)>;
// Hears a whole message that comes before the answer.
using Said = std::function<void(const std::string&)>;
// The next line from the host, or nothing: it has left.
using Heard = std::function<std::string()>;

std::string profile(const Request& request, const Began& began, const Said& said, const Heard& heard);
std::string verify(const Request& request, const Began& began);
std::string count(const Request& request, const Began& began);

}  // namespace edge
