// What a step needs to know about an optimizer's parameters on one device, kept from step to step.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "fused_step.h"
#include "plan_specs.h"
#include "watched.h"

namespace sgdr_fused {

// Of what GradScaler hands over, if anything.
inline const float* address_of(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<float>() : nullptr;
}

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
  using AddedSchedules = std::map<const CompiledSchedule*, int64_t>;  // to the first segment

  int64_t add_schedule(const CompiledSchedule& schedule, AddedSchedules& added);
  Hyper add_hyper(const HyperSpec& spec, AddedSchedules& added);
  void add_group(const GroupSpec& group, AddedSchedules& added);
  void add_tensor(TensorSpec spec);
  int64_t num_chunks_of(size_t tensor, int size) const;
  std::vector<Chunk> chunks_in(int size) const;
  int32_t add_layout(const TensorSpec& spec);
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
  std::vector<TensorSpec> specs_;  // in the order of tensors_; keep alive what is watched
  std::vector<DtypePair> dtypes_;
  WatchedTensors watched_;
  std::vector<at::Tensor> displays_seen_;  // with the version each must still have
  std::vector<int64_t> display_versions_;
  std::vector<std::pair<at::Tensor, const void*>> hyper_tensors_;
  std::vector<double> numbers_;
  bool captured_ = false;
  bool large_ = false;

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
  cuda::Table sums_ = {}, updates_ = {};
  uint32_t* ticket_ = nullptr;
};

}  // namespace sgdr_fused
