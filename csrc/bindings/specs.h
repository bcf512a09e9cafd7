// The structs that Python makes a plan from, under the names of their fields.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace sgdr_fused {

void bind_specs(pybind11::module_& module);

}  // namespace sgdr_fused
