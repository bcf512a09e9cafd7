// Plain data that a step works on, the same on the host and on the device.
#pragma once

#include <cstdint>

#include "math/compilers.h"
#include "math/dtype.h"
#include "math/schedules.h"
#include "rules/base.h"

namespace sgdr_fused {

constexpr int kMaxStates = 3;
constexpr int kMaxHypers = 4;
constexpr int kMaxConstants = 7;
constexpr int kMaxDims = 8;

// What a step reads and writes of a tensor. The numbers are places in Layout::strides, where what
// is used together stands together: parameter, gradient and states; average and parameter.
enum Operand { kRemainder, kAverage, kParam, kGrad, kFirstState };
constexpr int kMaxOperands = kFirstState + kMaxStates;

// Where a hyperparameter's value comes from at a step.
enum class Source : int32_t {
  kNumber,         // by value with the step: frozen in a captured graph
  kFloat32Tensor,  // read from memory at the step
  kFloat64Tensor,
  kSchedule,
};

struct Hyper {
  Source source;
  int32_t num_segments;   // kSchedule
  int64_t first_segment;  // kSchedule: index into PlanView::segments
  const void* tensor;     // the tensor sources
};

struct Group {
  Hyper hypers[kMaxHypers];
  double constants[kMaxConstants];
};

// Where the elements of a tensor lie whose operands are not all dense in the same order.
struct Layout {
  int32_t dims;
  int64_t sizes[kMaxDims];
  int64_t strides[kMaxOperands][kMaxDims];  // in elements
};

struct Tensor {
  void* param;
  void* states[kMaxStates];
  void* average;       // in the type that the update is computed in; null: none
  int16_t* remainder;  // of the parameter, see rounding.h; null: none
  double* steps;       // ParamStats::steps; null where the algorithm does not ask
  double* product;     // ParamStats::product; null where the algorithm has none
  int64_t numel;
  int32_t num_states;
  int32_t group;
  int32_t layout;    // index into PlanView::layouts; -1: every operand is dense, in the same order
  int32_t index;     // its place in the optimizer
  int32_t norm_sum;  // which of Clipping::sums its gradient's squares are in; -1: in none, since
                     // another process adds the same squares
  Dtype grad_dtype;  // the parameter's, or of 16 bits where that is kFloat32
};

// What a step does to a tensor's count of steps, and to the product that goes with it.
struct StepCountUpdate {
  bool counts;  // else it does nothing
  double factor;
};

// A scheduled hyperparameter as the user sees it: it holds the value of the next step.
struct Display {
  double* value;
  int32_t hyper;  // see hyper_of()
};

// On a GPU: the values of the scheduled hyperparameters at one even and at one odd step. A step
// makes those of the next one beside its update, so that no block waits for them. Who changes the
// clock need not know of them: values are used at their own step alone, and depend on nothing else.
constexpr int64_t kNoStep = INT64_MIN;
struct NextStepValues {
  int64_t* steps;  // which two steps; kNoStep: there are no values yet
  double* values;  // num_hypers() values of the even step, then of the odd one
};

// The running average of each parameter: the mean of its values at the steps that count, or an
// exponential average.
struct Average {
  Hyper weight;  // of a step's values in an exponential average; of a mean: 0 where a step does not
                 // count, else 1
  double number;  // the weight where it is a number; 0: there are no averages
  bool is_mean;
  int64_t* count;  // how many steps have counted
};

// What is measured of the gradients of one chunk.
struct ChunkGradSums {
  double squares;    // the sum of their squares
  bool nonfinite;    // one of them is not finite
  int32_t norm_sum;  // Tensor::norm_sum
};

// What is measured of all gradients together. These are sums, not the norm itself, so that those of
// several processes can be added up between the measuring and the update, which alone makes
// anything of them.
struct GradSums {
  double squares;    // the sum of the squares of the gradients, clamped if they are to be
  double nonfinite;  // any number but 0: a gradient of this step is not finite
};

static_assert(sizeof(GradSums) == 2 * sizeof(double) && sizeof(Squares) == 2 * sizeof(double));

// What is done to gradients before the update, and with a step whose gradients are not finite.
struct Clipping {
  bool is_on;             // gradients are clamped or scaled down
  double max_value;       // elements are clamped to [-max_value, max_value]
  double max_norm;        // of all gradients together; negative: not limited
  GradSums* sums;         // of this step; null: nothing is measured. The update reads the first
  int32_t num_sums;       // more than one: each is added up over other processes
  double* norm;           // for the user, written by the update; null where nothing is measured
  int64_t* skipped;       // steps skipped so far; null: a step is taken whatever its gradients are
  ChunkGradSums* chunks;  // in the order of the chunk table
  int64_t num_chunks;
};

// What is measured of each parameter, if the algorithm has rates of each parameter's own. These are
// sums too, of which the update makes norms.
struct ParamNorms {
  Squares* chunks;    // in the order of the chunk table
  Squares* tensors;   // in the order of PlanView::tensors
  uint32_t* tickets;  // on a GPU, per tensor
};

// A plan as the kernels see it: plain data that stays the same from step to step. On a GPU the
// pointers are the device's.
struct PlanView {
  const Tensor* tensors;
  const Group* groups;
  const Layout* layouts;
  const Segment* segments;
  ScheduleTables tables;
  const Display* displays;
  int32_t num_displays;
  int32_t num_groups;
  Average average;
  bool rounds_randomly;  // of what is stored in BFloat16
  uint64_t seed;         // of the random rounding
  Clipping clipping;
  ParamNorms param_norms;
  int64_t* clock;                  // steps taken
  StepCountUpdate* count_updates;  // on a GPU, for each tensor: of the step under way
  NextStepValues next_values;      // on a GPU
};

// A plan's hyperparameters by number: those of the groups, one group after the other, and then the
// weight of the averages.
SGDR_HOST_DEVICE int32_t num_hypers(const PlanView& plan) {
  return plan.num_groups * kMaxHypers + 1;
}
SGDR_HOST_DEVICE const Hyper& hyper_of(const PlanView& plan, int32_t number) {
  const int32_t group = number / kMaxHypers;
  return group < plan.num_groups ? plan.groups[group].hypers[number % kMaxHypers]
                                 : plan.average.weight;
}

SGDR_HOST_DEVICE double hyper_value(const PlanView& plan, const Hyper& hyper, double number,
                                    int64_t clock) {
  switch (hyper.source) {
    case Source::kNumber:
      return number;
    case Source::kFloat32Tensor:
      return static_cast<double>(*static_cast<const float*>(hyper.tensor));
    case Source::kFloat64Tensor:
      return *static_cast<const double*>(hyper.tensor);
    case Source::kSchedule:
      return schedule_value(plan.segments + hyper.first_segment, hyper.num_segments, plan.tables,
                            clock);
  }
  return number;  // not reached
}

// How far the averages go from what they are to this step's values; `weight` is Average::weight's.
// A mean's first value replaces what was there before, as an exponential average's does.
SGDR_HOST_DEVICE double average_weight(const Average& average, double weight) {
  if (weight == 0.0) return 0.0;
  const double count = static_cast<double>(*average.count);
  return average.is_mean || count == 0.0 ? 1.0 / (count + 1.0) : weight;
}

SGDR_HOST_DEVICE void show(const PlanView& plan, const Display& display, int64_t clock) {
  *display.value = hyper_value(plan, hyper_of(plan, display.hyper), 0.0, clock);
}

// Where the i-th element of a tensor lies in each dimension, the last one running fastest.
SGDR_HOST_DEVICE void coordinates_of(const Layout& layout, int64_t i,
                                     int64_t (&coordinates)[kMaxDims]) {
#pragma unroll 1
  for (int dim = layout.dims - 1; dim >= 0; --dim) {
    coordinates[dim] = i % layout.sizes[dim];
    i /= layout.sizes[dim];
  }
}

// Offsets in elements, for kCount operands from kFirst on, of the element that comes `ahead`
// elements after the one at `start`; 0 <= ahead <= 2^30. An addition with carries, so that no
// 64-bit numbers are divided per element: that is slow on a GPU, and takes registers that the
// update itself needs.
template <int kFirst, int kCount>
SGDR_HOST_DEVICE void offsets_of(const Layout& layout, const int64_t (&start)[kMaxDims],
                                 uint32_t ahead, int64_t (&offsets)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) offsets[i] = 0;
#pragma unroll 1
  for (int dim = layout.dims - 1; dim >= 0; --dim) {
    const int64_t size = layout.sizes[dim];
    int64_t index = start[dim] + ahead;
    if (index < size) {
      ahead = 0;
    } else if (ahead < size) {  // and start < size: at most one carry
      index -= size;
      ahead = 1;
    } else {  // both sides of the division are below 2^31
      const uint32_t sum = static_cast<uint32_t>(index);
      ahead = sum / static_cast<uint32_t>(size);
      index = sum % static_cast<uint32_t>(size);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) offsets[i] += index * layout.strides[kFirst + i][dim];
  }
}

}  // namespace sgdr_fused
