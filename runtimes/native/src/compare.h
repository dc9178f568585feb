// How far one output is from another: the arithmetic of edge.errorstats.
#pragma once

#include <string>

#include "bundle.h"
#include "json.h"

namespace edge {

struct ErrorStats {
  double max_abs, relative, cosine;
  bool passed;

  // The worse of the two, value by value: the row for several samples.
  void merge(const ErrorStats& other);
  void write(Writer& out, const std::string& output) const;
};

// MismatchError where `actual` has another shape than `expected`.
ErrorStats compare(const std::string& output, const Tensor& expected, const Tensor& actual, const Entry& entry);

}  // namespace edge
