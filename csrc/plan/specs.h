// What a plan is made from, as Python hands it over.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "step/args.h"

namespace sgdr_fused {

// A schedule on the host: its segments, and the tables that they point into.
class CompiledSchedule {
 public:
  CompiledSchedule(std::vector<Segment> segments, std::vector<int64_t> steps,
                   std::vector<double> values)
      : segments_(std::move(segments)),
        step_table_(std::move(steps)),
        value_table_(std::move(values)) {}

  double operator()(int64_t t) const;
  at::Tensor values(int64_t n) const;

  const std::vector<Segment>& segments() const { return segments_; }
  const std::vector<int64_t>& step_table() const { return step_table_; }
  const std::vector<double>& value_table() const { return value_table_; }

 private:
  std::vector<Segment> segments_;
  std::vector<int64_t> step_table_;
  std::vector<double> value_table_;
};

// One of: a number, a tensor on the plan's device (float32 or float64), a schedule.
struct HyperSpec {
  double number = 0.0;
  at::Tensor tensor;
  const CompiledSchedule* schedule = nullptr;
  at::Tensor display;  // with a schedule: what the step writes its next value to, or undefined
};

struct GroupSpec {
  std::vector<HyperSpec> hypers;
  std::vector<double> constants;
};

// A parameter. One that never had a gradient has no states yet and takes no part.
struct TensorSpec {
  at::Tensor param;
  const at::Tensor* place;  // where its Python object has it; see Watched
  at::Tensor grad;
  std::vector<at::Tensor> states;
  at::Tensor average;    // undefined: none
  at::Tensor remainder;  // undefined: none
  at::Tensor steps;      // 0-dim float64, or undefined where the algorithm does not count
  at::Tensor product;    // 0-dim float64, or undefined where the algorithm has none
  int32_t group = 0;
  int32_t index = 0;  // its place in the optimizer
  bool active = false;
};

// Running averages of the parameters. weight: a number, or a schedule; see Average.
struct AverageSpec {
  HyperSpec weight;
  bool is_mean = false;
  at::Tensor count;  // 0-dim int64, undefined: no averages
};

// What is done to gradients, and with those that are not finite; see Clipping.
struct ClippingSpec {
  double max_value = 0.0;
  double max_norm = 0.0;
  bool raises = false;  // where the norm is not finite
  at::Tensor norm;      // 0-dim float64, undefined: nothing is measured
  at::Tensor skipped;   // 0-dim int64, undefined: no step is skipped
};

}  // namespace sgdr_fused
