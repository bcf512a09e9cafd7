// The update of a step on the CPU. No torch.
#include "step/fused_step.h"

#include "cpu/hypers.h"
#include "cpu/update.h"
#include "step/clipping.h"

namespace sgdr_fused::cpu {

bool step(int algorithm, const Step& step, const Threads& threads) {
  const Clipping& clipping = step.plan.clipping;
  report_norm(clipping);
  if (skips(clipping, step.found_inf)) {
    count_skipped(clipping);
    return false;
  }
  constexpr decltype(&update_part<0>) kUpdates[kParts] = {update_part<0>, update_part<1>,
                                                          update_part<2>};
  kUpdates[algorithm % kParts](algorithm, step, threads);
  if (step.average_weight != 0.0) ++*step.plan.average.count;
  const int64_t clock = ++*step.plan.clock;
  for (int32_t i = 0; i < step.plan.num_displays; ++i) {
    show(step.plan, step.plan.displays[i], clock);
  }
  return true;
}

double average_weight(const PlanView& plan) {
  const Average& average = plan.average;
  return sgdr_fused::average_weight(average,
                                    hyper_value(plan, average.weight, average.number, *plan.clock));
}

}  // namespace sgdr_fused::cpu
