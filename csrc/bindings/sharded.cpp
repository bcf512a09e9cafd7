// See sharded.h.
#include "plan/sharded.h"

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

namespace sgdr_fused {

namespace py = pybind11;

namespace {

py::object python_object(const at::Tensor& tensor) {
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
}

// The attribute; nothing where there is none.
py::object attribute(const py::object& object, PyObject* name) {
  PyObject* const found = PyObject_GetAttr(object.ptr(), name);
  if (found == nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
    PyErr_Clear();
  }
  return py::reinterpret_steal<py::object>(found);
}

}  // namespace

const at::Tensor* local_part(const at::Tensor& tensor) {
  static PyObject* const name = PyUnicode_InternFromString("_local_tensor");
  const py::object local = attribute(python_object(tensor), name);
  // Another class of tensors has no plain memory: what a collective has not delivered yet, say.
  return local && THPVariable_CheckExact(local.ptr()) ? &THPVariable_Unpack(local.ptr()) : nullptr;
}

bool placed_alike(const at::Tensor& a, const at::Tensor& b) {
  static PyObject* const name = PyUnicode_InternFromString("_spec");
  const py::object spec = attribute(python_object(a), name);
  const py::object other = attribute(python_object(b), name);
  if (!spec || !other) return false;
  return spec.is(other) || (spec.attr("placements").equal(other.attr("placements")) &&
                            spec.attr("mesh").equal(other.attr("mesh")));
}

}  // namespace sgdr_fused
