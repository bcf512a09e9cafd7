// See step_call.h.
#include "bindings/step_call.h"

#include <ATen/record_function.h>
#include <c10/util/SmallVector.h>

namespace sgdr_fused {

namespace py = pybind11;

namespace {

struct Step {
  OptimizerPlan* plan;
  Scaling scaling;
};
using Steps = c10::SmallVector<Step, 1>;

at::Tensor entry(const py::object& tensors, size_t i) {
  if (tensors.is_none()) return {};
  const py::object tensor = py::reinterpret_borrow<py::list>(tensors)[i];
  return tensor.is_none() ? at::Tensor() : tensor.cast<at::Tensor>();
}

// Locks a plan. A thread that held the lock already would wait for itself, but none does: nothing
// of Python's runs while a plan is locked. A thread that waits lets Python's others run.
std::unique_lock<std::mutex> lock_of(OptimizerPlan& plan) {
  std::unique_lock<std::mutex> lock(plan.mutex(), std::try_to_lock);
  if (!lock.owns_lock()) {
    const py::gil_scoped_release released;
    lock.lock();
  }
  return lock;
}

// Collects all gradients. The parameters of a plan are alive if the membership has them.
bool all_valid(const Membership& membership, const py::list& param_groups, const Steps& steps) {
  if (!membership.unchanged(param_groups)) return false;
  for (const Step& step : steps) {
    if (!step.plan->belongs_to(membership.number())) {
      if (!membership.has(step.plan->places())) return false;
      step.plan->belong_to(membership.number());
    }
    if (!step.plan->valid()) return false;
    step.plan->check(step.scaling);
  }
  return true;
}

// Each of `pending` is (dict, entries). Puts the entries into the dicts, and empties the list. This
// happens all at once, since no signal handler of Python's runs before it returns. A step that such
// a handler has interrupted while it was prepared has to see these states, so the change is noted;
// the plans of this step were made with them.
void store(const py::list& pending, Membership& membership) {
  if (PyList_GET_SIZE(pending.ptr()) == 0) return;
  membership.renew();
  for (const py::handle item : pending) {
    const py::tuple pair = py::reinterpret_borrow<py::tuple>(item);
    if (PyDict_Update(py::object(pair[0]).ptr(), py::object(pair[1]).ptr()) != 0) {
      throw py::error_already_set();
    }
  }
  if (PyList_SetSlice(pending.ptr(), 0, PyList_GET_SIZE(pending.ptr()), nullptr) != 0) {
    throw py::error_already_set();
  }
}

// Takes these parts of a step with each of the plans. False: something is not as it was when
// membership and plans were made, and nothing was done. A profile shows the name.
bool take(const char* name, unsigned parts, Membership& membership, const py::list& param_groups,
          const py::list& plans, const py::object& grad_scales, const py::object& found_infs,
          const py::list* pending) {
  RECORD_FUNCTION(name, c10::ArrayRef<const c10::IValue>{});
  Steps steps;
  bool large = false;
  for (size_t i = 0; i < plans.size(); ++i) {
    auto* const plan = py::handle(PyList_GET_ITEM(plans.ptr(), i)).cast<OptimizerPlan*>();
    steps.push_back({plan, {entry(grad_scales, i), entry(found_infs, i)}});
    large = large || plan->large();
  }
  if (!large) {
    if (!all_valid(membership, param_groups, steps)) return false;
    for (const Step& step : steps) step.plan->run(parts, step.scaling);
    if (pending != nullptr) store(*pending, membership);
    return true;
  }
  // In this order, so that what is freed at the end is freed when no plan is locked any more.
  const py::tuple alive(plans);
  Held held;
  std::vector<std::unique_lock<std::mutex>> locks;
  for (const Step& step : steps) locks.push_back(lock_of(*step.plan));
  if (!all_valid(membership, param_groups, steps)) return false;
  for (const Step& step : steps) step.plan->hold(held);
  {
    const py::gil_scoped_release released;
    for (const Step& step : steps) step.plan->run(parts, step.scaling);
  }
  if (pending != nullptr) store(*pending, membership);
  return true;
}

}  // namespace

bool step(Membership& membership, const py::list& param_groups, const py::list& plans,
          const py::object& grad_scales, const py::object& found_infs, const py::list& pending) {
  return take("sgdr_fused::step", kWholeStep, membership, param_groups, plans, grad_scales,
              found_infs, &pending);
}

bool measure_grads(Membership& membership, const py::list& param_groups, const py::list& plans,
                   const py::object& grad_scales, const py::object& found_infs) {
  return take("sgdr_fused::measure_grads", kMeasureGrads, membership, param_groups, plans,
              grad_scales, found_infs, nullptr);
}

bool measure_params(Membership& membership, const py::list& param_groups, const py::list& plans,
                    const py::object& grad_scales, const py::object& found_infs) {
  return take("sgdr_fused::measure_params", kMeasureParams, membership, param_groups, plans,
              grad_scales, found_infs, nullptr);
}

bool update(Membership& membership, const py::list& param_groups, const py::list& plans,
            const py::object& grad_scales, const py::object& found_infs, const py::list& pending) {
  return take("sgdr_fused::update", kUpdate, membership, param_groups, plans, grad_scales,
              found_infs, &pending);
}

}  // namespace sgdr_fused
