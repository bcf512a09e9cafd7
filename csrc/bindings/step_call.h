// The calls from Python that check everything and take a step, as a whole or in its parts.
#pragma once

#include "bindings/membership.h"
#include "plan/plan.h"

namespace sgdr_fused {

// Takes one step with each of the plans. False: something is not as it was when membership and
// plans were made, and nothing was done. `grad_scales` and `found_infs` are None, or have a tensor
// or None for each plan. When the step has been taken, the states in `pending` are stored.
//
// Nothing of Python's runs between the check and the end of the step, or, beside a large step,
// nothing that could take away what the step uses; but two threads that write the same elements at
// once still race, as with torch's own operations, and so does one that resizes a storage in use.
bool step(Membership& membership, const pybind11::list& param_groups, const pybind11::list& plans,
          const pybind11::object& grad_scales, const pybind11::object& found_infs,
          const pybind11::list& pending);

// The same step by three calls, so that what is measured can be changed in between: for example,
// summed up over processes. measure_grads() makes OptimizerPlan::grad_sums(), which
// measure_params() and update() read; measure_params() makes param_sums(), which update() reads.
// A call whose plans measure nothing of its kind does nothing. Each call checks everything by
// itself, since anything may have happened in between, and no plan stays locked from one call to
// the next: Python runs there, which might take another step.
bool measure_grads(Membership& membership, const pybind11::list& param_groups,
                   const pybind11::list& plans, const pybind11::object& grad_scales,
                   const pybind11::object& found_infs);
bool measure_params(Membership& membership, const pybind11::list& param_groups,
                    const pybind11::list& plans, const pybind11::object& grad_scales,
                    const pybind11::object& found_infs);
bool update(Membership& membership, const pybind11::list& param_groups, const pybind11::list& plans,
            const pybind11::object& grad_scales, const pybind11::object& found_infs,
            const pybind11::list& pending);

}  // namespace sgdr_fused
