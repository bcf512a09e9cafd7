// A schedule as plain data, and its value at a step: the only place for schedule math.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace sgdr_fused {

enum class ScheduleKind : int32_t { kConstant, kCosineWarmRestarts, kTriangular };

enum class TriangularMode : int32_t { kTriangular, kTriangular2, kExpRange };

// One curve and the steps at which it holds. A schedule is one or more segments in ascending order
// of first_step; the first one starts at step 0, each ends where the next begins.
struct Segment {
  int64_t first_step;
  int64_t
      shift;     // the curve is evaluated at t + shift: a segment with its own zero has -first_step
  double scale;  // factor on the curve's value
  ScheduleKind kind;
  int32_t mode;        // TriangularMode
  double values[4];    // per kind, below
  int64_t lengths[2];  // in steps, per kind, below
  // Cosine restarts whose cycles grow: cycle i starts at cycle_starts[table + i], i = 0..cycles;
  // the last length repeats. No table: cycles == 0.
  int64_t table;
  int64_t cycles;
};

struct CyclePosition {
  int64_t index;
  int64_t position;  // 0 <= position < length
  int64_t length;
};

// Bounded: at most 17 halvings of the host's table (65,536 cycles).
SGDR_HOST_DEVICE CyclePosition cosine_cycle(const Segment& segment, const int64_t* cycle_starts,
                                            int64_t t) {
  const int64_t T_0 = segment.lengths[0];
  if (segment.cycles == 0) return {t / T_0, t % T_0, T_0};
  const int64_t* starts = cycle_starts + segment.table;
  int64_t low = 0, high = segment.cycles;  // the answer is in [low, high)
  if (t >= starts[high]) {
    const int64_t length = starts[high] - starts[high - 1];
    const int64_t past = t - starts[high];
    return {high + past / length, past % length, length};
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (starts[middle] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return {low, t - starts[low], starts[low + 1] - starts[low]};
}

// sin(pi * x / 2 / n)^2 for 0 <= x <= n, to a few units in the last place, also where it is small.
SGDR_HOST_DEVICE double sin_squared(int64_t x, int64_t n) {
  const double half_turns = static_cast<double>(x) / (2.0 * static_cast<double>(n));
#if defined(__CUDA_ARCH__)
  const double s = sinpi(half_turns);  // sin() would need local memory for its slow path
#else
  const double s = std::sin(3.14159265358979323846 * half_turns);
#endif
  return s * s;
}

// Loshchilov & Hutter (2017), eq. 5, with a factor per cycle on both ends. cos^2 is written as the
// sine of the complement and both ends carry their own weight, so that nothing cancels: the
// textbook form loses half of the digits near the end of a long cycle.
// values: max_lr, eta_min, max_decay, min_decay; lengths: T_0.
SGDR_HOST_DEVICE double cosine_warm_restarts(const Segment& segment, const int64_t* cycle_starts,
                                             int64_t t) {
  const CyclePosition cycle = cosine_cycle(segment, cycle_starts, t);
  const double index = static_cast<double>(cycle.index);
  const double highest = segment.values[0] * pow(segment.values[2], index);
  const double lowest = segment.values[1] * pow(segment.values[3], index);
  return highest * sin_squared(cycle.length - cycle.position, cycle.length) +
         lowest * sin_squared(cycle.position, cycle.length);
}

// Smith (2015), section 3.1, with a rise and a fall of their own lengths.
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
  }
  return segment.values[0] * (1.0 - weight) + segment.values[1] * weight;
}

// The schedule's value at step t >= 0.
SGDR_HOST_DEVICE double schedule_value(const Segment* segments, int32_t num_segments,
                                       const int64_t* cycle_starts, int64_t t) {
  int32_t i = 0;
  while (i + 1 < num_segments && segments[i + 1].first_step <= t) ++i;
  const Segment& segment = segments[i];
  const int64_t local = t + segment.shift;
  switch (segment.kind) {
    case ScheduleKind::kConstant:
      return segment.scale * segment.values[0];
    case ScheduleKind::kCosineWarmRestarts:
      return segment.scale * cosine_warm_restarts(segment, cycle_starts, local);
    case ScheduleKind::kTriangular:
      return segment.scale * triangular(segment, local);
  }
  return nan("");  // not reached: the host makes no other kind
}

}  // namespace sgdr_fused
