// What a step needs to know about an optimizer's parameters on one device, kept from step to step.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "fused_step.h"

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

// Built by Python, which has validated everything; valid() then tells cheaply whether all that the
// plan was made from is still what it was.
class OptimizerPlan {
 public:
  // backend: "cpu" for the CPU's loop, anything else for the GPU's kernels.
  OptimizerPlan(const std::string& algorithm, const std::string& backend, at::Tensor clock,
                const std::vector<GroupSpec>& groups, std::vector<TensorSpec> tensors,
                bool steps_are_state, const AverageSpec& average,
                std::optional<uint64_t> rounding_seed, ClippingSpec clipping);

  // Collects the gradients of this step. False: something is not as it was; nothing was done.
  bool valid();
  // Takes the step with the gradients that valid() collected.
  void run(const std::optional<at::Tensor>& grad_scale, const std::optional<at::Tensor>& found_inf);
  // Recomputes the displays from the clock.
  void show();
  void set_number(int64_t group, int64_t hyper, double value);
  // Whether a step is worth releasing Python's lock for.
  bool large() const { return large_; }
  at::Device device() const { return clock_.device(); }
  // A captured graph holds this plan's addresses.
  bool captured() const { return captured_; }

 private:
  // What a step looks at per tensor, beside the tensor's entry in tensors_: few cache lines, since
  // the thousands of small tensors' objects are cold at each step.
  struct Watched {
    at::TensorImpl* param;
    at::TensorImpl* states[kMaxStates];
    at::TensorImpl* average;    // null: none
    at::TensorImpl* remainder;  // null: none
    at::TensorImpl* steps;      // null: not counted, or where no user can reach it
    at::TensorImpl* product;    // null: none
    bool active;
    bool contiguous;  // every operand, as nearly always; else their strides are compared
  };

  // Keeps the watched tensors alive.
  struct Entry {
    TensorSpec spec;
    c10::SmallVector<int64_t, 4> param_strides;
    c10::SmallVector<int64_t, 4> grad_strides;
    c10::SmallVector<int64_t, 4> state_strides[kMaxStates];
    c10::SmallVector<int64_t, 4> average_strides;
    c10::SmallVector<int64_t, 4> remainder_strides;
    DtypePair dtypes;
  };

  using AddedSchedules = std::map<const CompiledSchedule*, int64_t>;  // to the first segment

  int64_t add_schedule(const CompiledSchedule& schedule, AddedSchedules& added);
  Hyper add_hyper(const HyperSpec& spec, AddedSchedules& added);
  void add_group(const GroupSpec& group, AddedSchedules& added);
  void add_tensor(TensorSpec spec);
  int64_t num_chunks_of(size_t tensor) const;
  int32_t add_layout(const TensorSpec& spec);
  bool same(size_t i, const at::Tensor& grad) const;
  void bump_versions(bool unscaled);
  void copy_to_device();
  bool run_cpu(const std::optional<at::Tensor>& grad_scale,
               const std::optional<at::Tensor>& found_inf);
  bool run_cuda(const std::optional<at::Tensor>& grad_scale,
                const std::optional<at::Tensor>& found_inf);
  void check_norm(const std::optional<at::Tensor>& found_inf) const;

  int algorithm_;
  bool measures_;  // the algorithm does
  bool on_gpu_;
  at::Tensor clock_;
  at::Tensor count_;  // of the averages
  ClippingSpec clipping_;
  bool steps_are_state_;        // visible to the user, so watched, and its version bumped
  std::vector<Entry> entries_;  // in the order of tensors_
  std::vector<Watched> watched_;
  std::vector<at::Tensor> displays_seen_;  // with the version each must still have
  std::vector<int64_t> display_versions_;
  std::vector<std::pair<at::Tensor, const void*>> hyper_tensors_;
  std::vector<void*> grads_;  // of this step, in the order of tensors_; null: none
  std::vector<double> numbers_;
  bool captured_ = false;
  bool large_ = false;
  std::vector<at::Tensor> held_;  // the same gradients while Python may run beside a large step

  std::vector<Tensor> tensors_;
  std::vector<Group> groups_;
  std::vector<Layout> layouts_;
  std::vector<Segment> segments_;
  std::vector<int64_t> step_table_;
  std::vector<double> value_table_;
  std::vector<Display> displays_;
  std::vector<Chunk> chunks_;
  std::vector<ChunkNorm> chunk_norms_;
  std::vector<Squares> chunk_squares_, tensor_squares_;
  bool nonfinite_ = false;
  Plan plan_;  // points into the vectors above, or into device_memory_

  at::Tensor device_memory_;
  std::vector<cuda::Launch> launches_;
  const Chunk* device_chunks_ = nullptr;
  uint32_t* ticket_ = nullptr;
};

}  // namespace sgdr_fused
