// The words by which Python names the kinds and modes of schedules; for the host alone.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "math/schedules.h"

namespace sgdr_fused {

template <class T>
struct Named {
  const char* name;
  T value;
};

inline constexpr Named<ScheduleKind> kScheduleKinds[] = {
    {"constant", ScheduleKind::kConstant},
    {"cosine_warm_restarts", ScheduleKind::kCosineWarmRestarts},
    {"triangular", ScheduleKind::kTriangular},
    {"ramp", ScheduleKind::kRamp},
    {"polynomial", ScheduleKind::kPolynomial},
    {"step", ScheduleKind::kStep},
    {"inverse_time", ScheduleKind::kInverseTime},
    {"table", ScheduleKind::kTable},
    {"cycle_end", ScheduleKind::kCycleEnd},
};

inline constexpr Named<TriangularMode> kTriangularModes[] = {
    {"triangular", TriangularMode::kTriangular},
    {"triangular2", TriangularMode::kTriangular2},
    {"exp_range", TriangularMode::kExpRange},
    {"cosine", TriangularMode::kCosine},
};

inline constexpr Named<RampMode> kRampModes[] = {
    {"linear", RampMode::kLinear},
    {"exponential", RampMode::kExponential},
    {"half_cosine", RampMode::kHalfCosine},
};

inline constexpr Named<int32_t> kNoModes[] = {{"none", 0}};

// The value of that name. Throws std::invalid_argument, which reaches Python as a ValueError;
// `what` says there what the name is of.
template <class T, size_t kCount>
T value_named(const Named<T> (&choices)[kCount], const std::string& what, const std::string& name) {
  std::string names;
  for (const Named<T>& choice : choices) {
    if (name == choice.name) return choice.value;
    names += (names.empty() ? "'" : ", '") + std::string(choice.name) + "'";
  }
  throw std::invalid_argument(what + " must be one of " + names + ", got '" + name + "'");
}

inline ScheduleKind kind_named(const std::string& name) {
  return value_named(kScheduleKinds, "a segment's kind", name);
}

// Segment::mode of a segment of that kind.
inline int32_t mode_named(ScheduleKind kind, const std::string& name) {
  switch (kind) {
    case ScheduleKind::kTriangular:
      return static_cast<int32_t>(
          value_named(kTriangularModes, "the mode of a triangular segment", name));
    case ScheduleKind::kRamp:
      return static_cast<int32_t>(value_named(kRampModes, "the mode of a ramp", name));
    default:
      return value_named(kNoModes, "the mode of a segment without modes", name);
  }
}

}  // namespace sgdr_fused
