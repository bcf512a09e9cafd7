// One call from Python that checks everything and takes a step.
#pragma once

#include "bindings/membership.h"
#include "plan/plan.h"

namespace sgdr_fused {

// Takes one step with each of the plans. False: something is not as it was when membership and
// plans were made, and nothing was done. `grad_scales` and `found_infs` are None, or have a tensor
// or None for each plan.
//
// Nothing of Python's runs between the check and the end of the step, or, beside a large step,
// nothing that could take away what the step uses; but two threads that write the same elements at
// once still race, as with torch's own operations, and so does one that resizes a storage in use.
bool step(Membership& membership, const pybind11::list& param_groups, const pybind11::list& plans,
          const pybind11::object& grad_scales, const pybind11::object& found_infs,
          const pybind11::list& pending);

}  // namespace sgdr_fused
