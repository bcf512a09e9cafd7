// The hyperparameters of a step on the CPU.
#pragma once

#include <array>
#include <vector>

#include "step/fused_step.h"

namespace sgdr_fused::cpu {

// The values at this step, for each group.
inline std::vector<std::array<double, kMaxHypers>> hypers_of_groups(const Step& step) {
  const PlanView& plan = step.plan;
  std::vector<std::array<double, kMaxHypers>> hypers(step.num_groups);
  for (int32_t group = 0; group < step.num_groups; ++group) {
    for (int k = 0; k < kMaxHypers; ++k) {
      hypers[group][k] = hyper_value(plan, plan.groups[group].hypers[k],
                                     step.numbers[group * kMaxHypers + k], *plan.clock);
    }
  }
  return hypers;
}

}  // namespace sgdr_fused::cpu
