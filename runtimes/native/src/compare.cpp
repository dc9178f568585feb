#include "compare.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "refusal.h"

namespace edge {
namespace {

// Stands for an infinite error: JSON has none.
constexpr double kUnbounded = DBL_MAX;

}  // namespace

void ErrorStats::merge(const ErrorStats& other) {
  max_abs = std::max(max_abs, other.max_abs);
  relative = std::max(relative, other.relative);
  cosine = std::min(cosine, other.cosine);
  passed = passed && other.passed;
}

void ErrorStats::write(Writer& out, const std::string& output) const {
  out.begin_object().name("output").value(output).name("max_abs").value(max_abs).name("relative").value(relative);
  out.name("cosine").value(cosine).name("passed").value(passed).end_object();
}

ErrorStats compare(const std::string& output, const Tensor& expected, const Tensor& actual, const Entry& entry) {
  if (expected.shape != actual.shape) {
    throw Refusal("MismatchError", "output '" + output + "' has shape " + text_of(actual.shape) + " where the model gives " +
                                       text_of(expected.shape) + ": export it again.");
  }
  const size_t count = expected.count();
  if (count == 0) return {0.0, 0.0, 1.0, true};
  double scale = 0.0;
  for (size_t i = 0; i < count; ++i) {
    const double left = expected.at(i), right = actual.at(i);
    if (!std::isfinite(left) || !std::isfinite(right)) return {kUnbounded, kUnbounded, 0.0, false};
    scale = std::max({scale, std::fabs(left), std::fabs(right)});
  }
  if (scale == 0.0) scale = 1.0;
  // One common factor keeps squares from overflowing and leaves the ratio and the cosine as they are.
  double difference = 0.0, norm = 0.0, other = 0.0, product = 0.0;
  for (size_t i = 0; i < count; ++i) {
    const double left = expected.at(i) / scale, right = actual.at(i) / scale;
    difference = std::max(difference, std::fabs(right - left));
    norm += left * left, other += right * right, product += left * right;
  }
  norm = std::sqrt(norm), other = std::sqrt(other);
  ErrorStats found{std::min(difference * scale, kUnbounded), 0.0, 1.0, false};
  if (norm == 0.0) {
    found.relative = found.max_abs;  // zeros have no scale and no direction
  } else {
    found.relative = std::min(difference / (norm / std::sqrt(static_cast<double>(count))), kUnbounded);
    found.cosine = other > 0.0 ? std::clamp(product / norm / other, -1.0, 1.0) : 0.0;
  }
  found.passed = found.relative <= entry.atol && found.cosine >= entry.cosine;
  return found;
}

}  // namespace edge
