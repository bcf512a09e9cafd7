// How a plan takes a step, and all that this is on the CPU; see plan.h.
#include <ATen/Parallel.h>

#include <cmath>

#include "plan/plan.h"

namespace sgdr_fused {

bool OptimizerPlan::valid() { return guards_.collect(); }

void OptimizerPlan::check(const Scaling& scaling) const {
  const auto check_one = [this](const char* name, const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat && tensor.device() == clock_.device(), name,
                     " must be a float32 tensor on ", clock_.device(), ", got ",
                     tensor.scalar_type(), " on ", tensor.device());
    TORCH_CHECK_VALUE(tensor.numel() == 1, name, " must have one element, got a tensor of shape ",
                      tensor.sizes());
    const std::string fault = memory_fault(tensor);
    TORCH_CHECK_VALUE(fault.empty(), name, " cannot be read: ", fault);
  };
  check_one("grad_scale", scaling.grad_scale);
  check_one("found_inf", scaling.found_inf);
}

void OptimizerPlan::set_number(int64_t group, int64_t hyper, double value) {
  numbers_.at(group * kMaxHypers + hyper) = value;
}

void OptimizerPlan::run(unsigned parts, const Scaling& scaling) {
  const bool updated = on_gpu_ ? run_cuda(parts, scaling) : run_cpu(parts, scaling);
  if (updated) guards_.bump_versions(scaling.grad_scale.defined());
}

bool OptimizerPlan::run_cpu(unsigned parts, const Scaling& scaling) {
  cpu::Step step = {plan_,
                    numbers_.data(),
                    static_cast<int32_t>(groups_.size()),
                    {},
                    address_of(scaling.grad_scale),
                    address_of(scaling.found_inf),
                    cpu::average_weight(plan_),
                    chunks_.data(),
                    static_cast<int64_t>(chunks_.size())};
  const std::vector<void*>& grads = guards_.grads();
  step.items.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const bool averages = step.average_weight != 0.0 && tensors_[i].average != nullptr;
    if (grads[i] != nullptr || averages) {
      step.items.push_back({static_cast<int32_t>(i), types_[i], grads[i]});
    }
  }
  const cpu::Threads threads = {[] { return static_cast<int64_t>(at::get_num_threads()); },
                                [](int64_t calls, const std::function<void(int64_t)>& body) {
                                  at::parallel_for(0, calls, 1, [&](int64_t first, int64_t last) {
                                    for (int64_t call = first; call < last; ++call) body(call);
                                  });
                                }};
  if ((parts & kMeasureGrads) != 0 && grad_sums_.defined()) cpu::measure_grads(step, threads);
  if ((parts & kMeasureParams) != 0 && measures_params_)
    cpu::measure_params(algorithm_, step, threads);
  if ((parts & kUpdate) == 0) return false;
  if (clipping_.raises) check_norm(scaling.found_inf);
  return cpu::step(algorithm_, step, threads);
}

// There is no error for a step that a GradScaler skips.
void OptimizerPlan::check_norm(const at::Tensor& found_inf) const {
  const double norm = std::sqrt(grad_sums_[0][0].item<double>());
  if (std::isfinite(norm) || (found_inf.defined() && found_inf.item<float>() != 0.0f)) return;
  clipping_.norm.fill_(norm);  // the update, which does not follow, would have written it
  TORCH_CHECK(false, "error_if_nonfinite: the norm of the gradients is ", norm,
              "; the step was not taken");
}

}  // namespace sgdr_fused
