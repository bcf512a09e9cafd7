// See python_tensors.h and plan/sharded.h.
#include "bindings/python_tensors.h"

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "plan/sharded.h"

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

// Whether both have the attribute, and it is the same. Python compares no object with itself.
bool same(const py::object& a, const py::object& b, PyObject* name) {
  const py::object ours = attribute(a, name), theirs = attribute(b, name);
  if (!ours || !theirs) return false;
  const int equal = PyObject_RichCompareBool(ours.ptr(), theirs.ptr(), Py_EQ);
  if (equal < 0) throw py::error_already_set();
  return equal == 1;
}

Placement held(py::object object) {
  return {object.release().ptr(), [](PyObject* held) {
            const py::gil_scoped_acquire locked;
            Py_DECREF(held);
          }};
}

}  // namespace

bool is_tensor(PyObject* object) { return THPVariable_Check(object); }

const at::Tensor* place_of(PyObject* param) { return &THPVariable_Unpack(param); }

const at::Tensor* local_part(const at::Tensor& tensor) {
  static PyObject* const name = PyUnicode_InternFromString("_local_tensor");
  const py::object local = attribute(python_object(tensor), name);
  // Another class of tensors has no plain memory: what a collective has not delivered yet, say.
  return local && THPVariable_CheckExact(local.ptr()) ? &THPVariable_Unpack(local.ptr()) : nullptr;
}

bool placed_like(const at::Tensor& tensor, const at::Tensor& other, Placement& known) {
  static PyObject* const spec_name = PyUnicode_InternFromString("_spec");
  static PyObject* const placements = PyUnicode_InternFromString("placements");
  static PyObject* const mesh = PyUnicode_InternFromString("mesh");
  const py::object spec = attribute(python_object(tensor), spec_name);
  if (!spec) return false;
  if (spec.ptr() == known.get()) return true;
  const py::object others = attribute(python_object(other), spec_name);
  if (!others || !same(spec, others, mesh) || !same(spec, others, placements)) return false;
  if (known == nullptr) known = held(spec);
  return true;
}

}  // namespace sgdr_fused
