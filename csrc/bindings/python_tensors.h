// What the Python object of a tensor knows. One file alone has torch's header of these objects,
// which is long to compile.
#pragma once

#include <ATen/core/Tensor.h>
#include <Python.h>

namespace sgdr_fused {

bool is_tensor(PyObject* object);

// The place where a parameter's Python object has its tensor.
const at::Tensor* place_of(PyObject* param);

}  // namespace sgdr_fused
