// What a plan is made from, as Python hands it over.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "plan/carried.h"
#include "plan/schedule.h"

namespace sgdr_fused {

// A hyperparameter: a number, a tensor on the plan's device (float32 or float64), or a schedule.
struct HyperSpec {
  double number = 0.0;
  at::Tensor tensor;
  std::shared_ptr<const CompiledSchedule> schedule;
  at::Tensor display;  // with a schedule: what the step writes its next value to, or undefined
};

struct GroupSpec {
  std::vector<HyperSpec> hypers;
  std::vector<double> constants;
};

// A parameter. One that never had a gradient has no states yet and takes no part.
struct ParamSpec {
  // Who the parameter is: the tensor that owns the gradient, and the place where its Python object
  // has that tensor.
  at::Tensor param;
  const at::Tensor* place;
  at::Tensor memory;  // where its elements are: for a plain tensor the parameter itself
  at::Tensor grad;
  std::vector<at::Tensor> states;
  CarriedTensors carried;
  int32_t group = 0;
  int32_t index = 0;     // its place in the optimizer
  int32_t norm_sum = 0;  // which sum of the squares of gradients its own go into; -1: none
  bool active = false;
  // It stands for a tensor that is shared out among processes. Its gradient does too, and `memory`
  // and `grad` are the parts of both that are here.
  bool sharded = false;
};

// Running averages of the parameters. weight: a number, or a schedule; see Average.
struct AverageSpec {
  HyperSpec weight;
  bool is_mean = false;
  at::Tensor count;  // 0-dim int64
};

// What is done to gradients, and to steps whose gradients are not finite; see Clipping.
struct ClippingSpec {
  double max_value = 0.0;
  double max_norm = 0.0;
  bool raises = false;   // an error where the norm is not finite
  at::Tensor norm;       // 0-dim float64, undefined: nothing is measured
  at::Tensor skipped;    // 0-dim int64, undefined: no step is skipped
  int32_t num_sums = 1;  // of the squares of gradients
};

}  // namespace sgdr_fused
