// What a step needs to know about an optimizer's parameters on one device, kept from step to step.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "plan/guards.h"
#include "plan/specs.h"
#include "step/fused_step.h"

namespace sgdr_fused {

// What GradScaler hands over; undefined: nothing.
struct Scaling {
  at::Tensor grad_scale, found_inf;
};
inline const float* address_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

// The parts of a step, in their order. Something may stand between the calls that take them, such
// as a sum over processes of what was measured: on the same stream, without a wait of the host.
enum StepParts : unsigned {
  kMeasureGrads = 1,   // grad_sums()
  kMeasureParams = 2,  // param_sums(); it reads grad_sums(), since it measures clipped gradients
  kUpdate = 4,         // it reads both sums
  kWholeStep = kMeasureGrads | kMeasureParams | kUpdate,
};

// Built by Python, which has validated everything; valid() then tells cheaply whether all that the
// plan was made from is still what it was. It keeps alive what it uses, but for the parameters and
// gradients, of which an optimizer is to hold no more than Python's lists do: see step_call.h.
class OptimizerPlan {
 public:
  // backend: "cpu" for the CPU's loop, anything else for the GPU's kernels.
  OptimizerPlan(const std::string& algorithm, const std::string& backend, at::Tensor clock,
                const std::vector<GroupSpec>& groups, std::vector<ParamSpec> params,
                bool steps_are_state, const std::optional<AverageSpec>& average,
                std::optional<uint64_t> rounding_seed, ClippingSpec clipping);

  // Collects the gradients of this step. False: something is not as it was; nothing was done.
  bool valid();
  // Raises for a scale or a flag that a kernel cannot read.
  void check(const Scaling& scaling) const;
  // Keeps alive all that the step will use.
  void hold(Held& held) const { guards_.hold(held); }
  // Takes these parts of the step, with the gradients that valid() collected.
  void run(unsigned parts, const Scaling& scaling);
  // What is measured, on the plan's device: float64, for each of ClippingSpec::num_sums (the sum of
  // the squares of those gradients; 0, or another number where any gradient is not finite), of
  // which the update reads the first; and for each tensor of order() (the sum of the
  // squares of the parameter, that of its direction). Undefined: nothing is measured.
  const at::Tensor& grad_sums() const { return grad_sums_; }
  const at::Tensor& param_sums() const { return param_sums_; }
  // The places in the optimizer of the tensors that param_sums() is about.
  std::vector<int32_t> order() const;
  // Recomputes the displays from the clock.
  void show();
  void set_number(int64_t group, int64_t hyper, double value);
  // Whether a step is worth releasing Python's lock for.
  bool large() const { return large_; }
  // Locked for the length of a large step, beside which other threads may take one.
  std::mutex& mutex() { return mutex_; }
  // The Membership that is known to have all of the plan's parameters, by its number.
  bool belongs_to(int64_t membership) const { return membership_ == membership; }
  void belong_to(int64_t membership) { membership_ = membership; }
  const std::vector<const at::Tensor*>& places() const { return guards_.places(); }
  at::Device device() const { return clock_.device(); }
  // A captured graph holds this plan's addresses.
  bool captured() const { return captured_; }

 private:
  using AddedSchedules = std::map<const CompiledSchedule*, int64_t>;  // to the first segment

  int64_t add_schedule(const CompiledSchedule& schedule, AddedSchedules& added);
  Hyper add_hyper(const HyperSpec& spec, AddedSchedules& added);
  void add_group(const GroupSpec& group, AddedSchedules& added);
  void add_tensor(const ParamSpec& spec);
  int64_t num_chunks_of(size_t tensor, int size) const;
  std::vector<Chunk> chunks_in(int size) const;
  int32_t add_layout(const ParamSpec& spec);
  void make_sums();  // on the CPU
  void copy_to_device();
  bool run_cpu(unsigned parts, const Scaling& scaling);
  bool run_cuda(unsigned parts, const Scaling& scaling);
  void check_norm(const at::Tensor& found_inf) const;
  void record_use(void* stream);

  int algorithm_;
  bool measures_params_;  // the algorithm does
  bool on_gpu_;
  at::Tensor clock_;
  ClippingSpec clipping_;
  std::vector<StorageTypes> types_;  // in the order of tensors_, as the next
  std::vector<bool> active_;
  Guards guards_;
  std::vector<double> numbers_;
  std::mutex mutex_;
  int64_t membership_ = 0;
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
  std::vector<ChunkGradSums> chunk_grad_sums_;
  std::vector<Squares> chunk_squares_;
  at::Tensor grad_sums_, param_sums_;  // GradSums; Squares of each tensor
  PlanView plan_;                      // points into the vectors above, or into device_memory_

  at::Tensor device_memory_;
  std::vector<cuda::Launch> launches_;
  cuda::Table measured_chunks_ = {}, updated_chunks_ = {};
  uint32_t* ticket_ = nullptr;
  std::vector<void*> streams_;  // that the plan's memory is known to be used on
};

}  // namespace sgdr_fused
