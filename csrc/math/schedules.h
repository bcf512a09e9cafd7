// A schedule as plain data, and its value at a step: the only place for schedule math.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/compilers.h"

namespace sgdr_fused {

enum class ScheduleKind : int32_t {
  kConstant,
  kCosineWarmRestarts,
  kTriangular,
  kRamp,
  kPolynomial,
  kStep,
  kInverseTime,
  kTable,
  kCycleEnd
};

enum class TriangularMode : int32_t { kTriangular, kTriangular2, kExpRange, kCosine };

enum class RampMode : int32_t { kLinear, kExponential, kHalfCosine };

// One curve and the steps at which it holds. A schedule is one or more segments in ascending order
// of first_step; the first one starts at step 0, each ends where the next begins. Segments that
// start at the same step hold together: their values are multiplied.
struct Segment {
  int64_t first_step;
  int64_t
      shift;     // the curve is evaluated at t + shift: a segment with its own zero has -first_step
  double scale;  // factor on the curve's value
  ScheduleKind kind;
  int32_t mode;        // TriangularMode, RampMode
  double values[4];    // per kind, below
  int64_t lengths[2];  // in steps, per kind, below
  // Per kind, below: table_size entries of one of ScheduleTables' arrays, from entry table on.
  int64_t table;
  int64_t table_size;
};

// The arrays that the segments of all schedules point into.
struct ScheduleTables {
  const int64_t* steps;
  const double* values;
};

// The last i in [0, n) with starts[i] <= t, where starts ascend and starts[0] <= t. It takes as
// many halvings as n has bits.
template <class Starts>
SGDR_HOST_DEVICE int64_t last_start(const Starts& starts, int64_t n, int64_t t) {
  int64_t low = 0, high = n;  // the answer is in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (starts[middle] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

struct CyclePosition {
  int64_t index;
  int64_t position;  // 0 <= position < length
  int64_t length;
};

// Cycles of lengths[0] steps where there is no table; else cycle i starts at entry i of the table,
// the last entry is where the last cycle ends, and its length repeats.
SGDR_HOST_DEVICE CyclePosition cycle_of(const Segment& segment, const ScheduleTables& tables,
                                        int64_t t) {
  const int64_t T_0 = segment.lengths[0];
  if (segment.table_size == 0) return {t / T_0, t % T_0, T_0};
  const int64_t* starts = tables.steps + segment.table;
  const int64_t cycles = segment.table_size - 1;
  if (t >= starts[cycles]) {
    const int64_t length = starts[cycles] - starts[cycles - 1];
    const int64_t past = t - starts[cycles];
    return {cycles + past / length, past % length, length};
  }
  const int64_t i = last_start(starts, cycles, t);
  return {i, t - starts[i], starts[i + 1] - starts[i]};
}

// sin(pi / 2 * x)^2 for 0 <= x <= 1, to a few units in the last place, also where it is small.
SGDR_HOST_DEVICE double sin_squared(double x) {
#if defined(__CUDA_ARCH__)
  const double s = sinpi(0.5 * x);  // sin() would need local memory for its slow path
#else
  const double s = std::sin(3.14159265358979323846 * (0.5 * x));
#endif
  return s * s;
}

// Loshchilov & Hutter (2017), eq. 5, with a factor per cycle on both ends. cos^2 is written as the
// sine of the complement and both ends carry their own weight, so that nothing cancels: the
// textbook form loses half of the digits near the end of a long cycle.
// values: max_lr, eta_min, max_decay, min_decay; lengths: T_0; table: cycles of other lengths.
SGDR_HOST_DEVICE double cosine_warm_restarts(const Segment& segment, const ScheduleTables& tables,
                                             int64_t t) {
  const CyclePosition cycle = cycle_of(segment, tables, t);
  const double length = static_cast<double>(cycle.length);
  const double index = static_cast<double>(cycle.index);
  const double highest = segment.values[0] * pow(segment.values[2], index);
  const double lowest = segment.values[1] * pow(segment.values[3], index);
  return highest * sin_squared(static_cast<double>(cycle.length - cycle.position) / length) +
         lowest * sin_squared(static_cast<double>(cycle.position) / length);
}

// Smith (2015), section 3.1, with a rise and a fall of their own lengths. In kCosine both are half
// cosines. The first end may be the higher one: momentum moves against the rate.
// values: base_lr, max_lr, gamma; lengths: step_size_up, step_size_down.
SGDR_HOST_DEVICE double triangular(const Segment& segment, int64_t t) {
  const int64_t up = segment.lengths[0], down = segment.lengths[1];
  const int64_t cycle = t / (up + down), position = t % (up + down);
  double weight = position <= up
                      ? static_cast<double>(position) / static_cast<double>(up)
                      : static_cast<double>(up + down - position) / static_cast<double>(down);
  switch (static_cast<TriangularMode>(segment.mode)) {
    case TriangularMode::kTriangular:
      break;
    case TriangularMode::kTriangular2:
      weight *= pow(0.5, static_cast<double>(cycle));
      break;
    case TriangularMode::kExpRange:
      weight *= pow(segment.values[2], static_cast<double>(t));
      break;
    case TriangularMode::kCosine:
      weight = sin_squared(weight);
      break;
  }
  return segment.values[0] * (1.0 - weight) + segment.values[1] * weight;
}

// From start to end along the mode's curve, and then held. A phase of one-cycle begins and ends
// between two steps: `before` of a step after step 0, and `after` of a step after the last whole
// one. values: start, end, before, after; lengths: the last whole step, the step from which it is
// held.
SGDR_HOST_DEVICE double ramp(const Segment& segment, int64_t t) {
  const int64_t step = t < segment.lengths[1] ? t : segment.lengths[1];
  const double past = static_cast<double>(step) - segment.values[2];
  const double left = static_cast<double>(segment.lengths[0] - step) + segment.values[3];
  const double start = segment.values[0], to_start = left / (past + left);
  const double end = segment.values[1], to_end = past / (past + left);
  switch (static_cast<RampMode>(segment.mode)) {
    case RampMode::kLinear:
      return start * to_start + end * to_end;
    case RampMode::kExponential:
      return pow(start, to_start) * pow(end, to_end);
    case RampMode::kHalfCosine:
      return start * sin_squared(to_start) + end * sin_squared(to_end);
  }
  return nan("");  // not reached: the host makes no other mode
}

// values: start, end, power; lengths: steps. start >= end, so that nothing cancels.
SGDR_HOST_DEVICE double polynomial(const Segment& segment, int64_t t) {
  const int64_t steps = segment.lengths[0], left = t < steps ? steps - t : 0;
  const double start = segment.values[0], end = segment.values[1];
  return end + (start - end) *
                   pow(static_cast<double>(left) / static_cast<double>(steps), segment.values[2]);
}

// A factor of gamma every step_size steps; with a table, at each of its entries but the first, 0.
// values: lr, gamma; lengths: step_size.
SGDR_HOST_DEVICE double step_decay(const Segment& segment, const ScheduleTables& tables,
                                   int64_t t) {
  const int64_t factors = segment.table_size == 0
                              ? t / segment.lengths[0]
                              : last_start(tables.steps + segment.table, segment.table_size, t);
  return segment.values[0] * pow(segment.values[1], static_cast<double>(factors));
}

// 1 at the last step of each cycle, else 0: not a rate, but where averages take what the weights
// are. lengths: of a cycle; table: cycles of other lengths.
SGDR_HOST_DEVICE double cycle_end(const Segment& segment, const ScheduleTables& tables, int64_t t) {
  const CyclePosition cycle = cycle_of(segment, tables, t);
  return cycle.position == cycle.length - 1 ? 1.0 : 0.0;
}

SGDR_HOST_DEVICE double segment_value(const Segment& segment, const ScheduleTables& tables,
                                      int64_t t) {
  switch (segment.kind) {
    case ScheduleKind::kConstant:
      return segment.values[0];
    case ScheduleKind::kCosineWarmRestarts:
      return cosine_warm_restarts(segment, tables, t);
    case ScheduleKind::kTriangular:
      return triangular(segment, t);
    case ScheduleKind::kRamp:
      return ramp(segment, t);
    case ScheduleKind::kPolynomial:
      return polynomial(segment, t);
    case ScheduleKind::kStep:
      return step_decay(segment, tables, t);
    case ScheduleKind::kInverseTime:  // values: lr, k
      return segment.values[0] / (1.0 + segment.values[1] * static_cast<double>(t));
    case ScheduleKind::kTable:  // its last entry holds from there on
      return tables.values[segment.table + (t < segment.table_size ? t : segment.table_size - 1)];
    case ScheduleKind::kCycleEnd:
      return cycle_end(segment, tables, t);
  }
  return nan("");  // not reached: the host makes no other kind
}

// An array of the segments' first steps.
struct FirstSteps {
  const Segment* segments;
  SGDR_HOST_DEVICE int64_t operator[](int64_t i) const { return segments[i].first_step; }
};

// The memory where a step is expected may hold any number. This makes a step of it that all curves,
// their tables and their shifts, which are at most as large, are made for: one before the first
// step counts as the first, and one after the last as the last.
SGDR_HOST_DEVICE int64_t valid_step(int64_t t) {
  constexpr int64_t kLastStep = int64_t{1} << 61;  // MAX_STEP of sgdr_fused/_checks.py
  return t < 0 ? 0 : t < kLastStep ? t : kLastStep;
}

// The schedule's value at step t, which may be any.
SGDR_HOST_DEVICE double schedule_value(const Segment* segments, int32_t num_segments,
                                       const ScheduleTables& tables, int64_t t) {
  t = valid_step(t);
  int64_t i = last_start(FirstSteps{segments}, num_segments, t);
  const int64_t first_step = segments[i].first_step;
  double value = 1.0;
#pragma unroll 1  // one copy of the curves in a kernel
  for (; i >= 0 && segments[i].first_step == first_step; --i) {
    const Segment& segment = segments[i];
    value *= segment.scale * segment_value(segment, tables, t + segment.shift);
  }
  return value;
}

}  // namespace sgdr_fused
