// A plan's steps, and those of the CPU in full; see plan.h.
#include <ATen/Parallel.h>

#include <cmath>

#include "plan.h"

namespace sgdr_fused {

bool OptimizerPlan::valid() {
  for (size_t i = 0; i < displays_seen_.size(); ++i) {
    if (displays_seen_[i]._version() != display_versions_[i]) return false;
  }
  for (const auto& [tensor, data] : hyper_tensors_) {
    if (tensor.const_data_ptr() != data) return false;
  }
  return watched_.collect(large_);
}

void OptimizerPlan::set_number(int64_t group, int64_t hyper, double value) {
  numbers_.at(group * kMaxHypers + hyper) = value;
}

void OptimizerPlan::run(const std::optional<at::Tensor>& grad_scale,
                        const std::optional<at::Tensor>& found_inf) {
  const bool taken = on_gpu_ ? run_cuda(grad_scale, found_inf) : run_cpu(grad_scale, found_inf);
  if (taken) watched_.bump_versions(grad_scale.has_value());
  watched_.let_go();
}

bool OptimizerPlan::run_cpu(const std::optional<at::Tensor>& grad_scale,
                            const std::optional<at::Tensor>& found_inf) {
  cpu::Step step = {plan_,
                    numbers_.data(),
                    static_cast<int32_t>(groups_.size()),
                    {},
                    address_of(grad_scale),
                    address_of(found_inf),
                    cpu::average_weight(plan_),
                    chunks_.data(),
                    static_cast<int64_t>(chunks_.size())};
  const std::vector<void*>& grads = watched_.grads();
  step.items.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const bool averages = step.average_weight != 0.0 && tensors_[i].average != nullptr;
    if (grads[i] != nullptr || averages) {
      step.items.push_back({static_cast<int32_t>(i), dtypes_[i], grads[i]});
    }
  }
  const cpu::Threads threads = {[] { return static_cast<int64_t>(at::get_num_threads()); },
                                [](int64_t calls, const std::function<void(int64_t)>& body) {
                                  at::parallel_for(0, calls, 1, [&](int64_t first, int64_t last) {
                                    for (int64_t call = first; call < last; ++call) body(call);
                                  });
                                }};
  if (plan_.clipping.norm != nullptr) {
    cpu::measure(step, threads);
    check_norm(found_inf);
  }
  if (measures_) cpu::measure_tensors(algorithm_, step, threads);
  return cpu::step(algorithm_, step, threads);
}

// A step that a GradScaler skips is none to raise for.
void OptimizerPlan::check_norm(const std::optional<at::Tensor>& found_inf) const {
  if (!clipping_.raises) return;
  const double norm = clipping_.norm.item<double>();
  const bool skipped = found_inf.has_value() && found_inf->item<float>() != 0.0f;
  TORCH_CHECK(std::isfinite(norm) || skipped, "error_if_nonfinite: the norm of the gradients is ",
              norm, "; the step was not taken");
}

}  // namespace sgdr_fused
