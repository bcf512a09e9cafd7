// See membership.h.
#include "bindings/membership.h"

#include <algorithm>

#include "bindings/python_tensors.h"

namespace sgdr_fused {

namespace py = pybind11;

namespace {

// The group's entry "params", borrowed: a list, which the user may edit, or a tuple. Null: it is
// neither.
PyObject* params_of(PyObject* group) {
  static PyObject* const key = PyUnicode_InternFromString("params");
  PyObject* const params = PyDict_Check(group) ? PyDict_GetItemWithError(group, key) : nullptr;
  if (params == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return params != nullptr && (PyList_Check(params) || PyTuple_Check(params)) ? params : nullptr;
}

// Whether the reference is to this group.
bool refers_to(PyObject* reference, PyObject* group) {
  if (!PyWeakref_Check(reference)) return reference == group;
  PyObject* referent = nullptr;
  PyWeakref_GetRef(reference, &referent);
  const bool same = referent == group;
  Py_XDECREF(referent);
  return same;
}

// Whether two dicts have the same objects under the same keys. Both were filled side by side, so
// their entries mostly come in the same order, and nothing has to be looked up.
bool same_entries(PyObject* a, PyObject* b) {
  if (PyDict_GET_SIZE(a) != PyDict_GET_SIZE(b)) return false;
  PyObject *key, *value, *other_key, *other;
  Py_ssize_t position = 0, other_position = 0;
  while (PyDict_Next(a, &position, &key, &value)) {
    const bool in_order = PyDict_Next(b, &other_position, &other_key, &other) && other_key == key;
    if (!in_order) other = PyDict_GetItemWithError(b, key);
    if (PyErr_Occurred()) throw py::error_already_set();
    if (other != value) return false;
  }
  return true;
}

}  // namespace

Membership::Membership(const py::list& param_groups, const py::list& aliases,
                       const py::object& changes, const py::object& seen)
    : changes_(changes.ptr()), seen_(seen.ptr()) {
  held_.append(changes);
  held_.append(seen);
  static int64_t made = 0;
  number_ = ++made;
  for (const py::handle group : param_groups) {
    PyObject* const params = params_of(group.ptr());
    TORCH_CHECK_TYPE(params != nullptr, "a parameter group's 'params' must be a list");
    PyObject* reference = PyWeakref_NewRef(group.ptr(), nullptr);
    if (reference == nullptr) PyErr_Clear();
    Group& added = groups_.emplace_back();
    if (reference == nullptr) {
      added.reference = py::reinterpret_borrow<py::object>(group);
      held_.append(group);
    } else {
      added.reference = py::reinterpret_steal<py::object>(reference);
    }
    for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(params); ++k) {
      PyObject* const param = PySequence_Fast_GET_ITEM(params, k);
      TORCH_CHECK_TYPE(is_tensor(param), "a parameter group's 'params' must be tensors");
      added.params.push_back({param, Py_TYPE(param)});
      places_.push_back(place_of(param));
      const py::handle type(reinterpret_cast<PyObject*>(Py_TYPE(param)));
      if (!held_.contains(type)) held_.append(type);
    }
  }
  std::sort(places_.begin(), places_.end());
  for (const py::handle alias : aliases) {
    const py::tuple pair = py::reinterpret_borrow<py::tuple>(alias);
    TORCH_CHECK_TYPE(PyDict_Check(pair[0].ptr()) && PyDict_Check(pair[1].ptr()),
                     "aliases must be pairs of dicts");
    aliases_.push_back({py::object(pair[0]).ptr(), py::object(pair[1]).ptr()});
    held_.append(pair);
  }
}

bool Membership::unchanged(const py::list& param_groups) const {
  if (held_.ptr() == nullptr || py::len(param_groups) != groups_.size()) return false;
  static PyObject* const plan = PyUnicode_InternFromString("plan");
  const auto written = py::reinterpret_steal<py::object>(PyObject_GetAttr(changes_, plan));
  if (written.ptr() == nullptr) throw py::error_already_set();
  if (written.ptr() != seen_) return false;
  for (size_t i = 0; i < groups_.size(); ++i) {
    PyObject* const group = PyList_GET_ITEM(param_groups.ptr(), i);
    if (!refers_to(groups_[i].reference.ptr(), group)) return false;
    PyObject* const params = params_of(group);
    const std::vector<Param>& known = groups_[i].params;
    if (params == nullptr ||
        PySequence_Fast_GET_SIZE(params) != static_cast<Py_ssize_t>(known.size())) {
      return false;
    }
    PyObject** const objects = PySequence_Fast_ITEMS(params);
    for (size_t k = 0; k < known.size(); ++k) {
      if (objects[k] != known[k].object || Py_TYPE(objects[k]) != known[k].type) return false;
    }
  }
  for (const Alias& alias : aliases_) {
    if (!same_entries(alias.ours, alias.theirs)) return false;
  }
  return true;
}

void Membership::renew() {
  const auto seen = py::reinterpret_steal<py::object>(
      PyObject_CallNoArgs(reinterpret_cast<PyObject*>(&PyBaseObject_Type)));
  if (seen.ptr() == nullptr || PyObject_SetAttrString(changes_, "plan", seen.ptr()) != 0) {
    throw py::error_already_set();
  }
  held_.append(seen);
  seen_ = seen.ptr();
}

bool Membership::has(std::vector<const at::Tensor*> places) const {
  std::sort(places.begin(), places.end());
  return std::includes(places_.begin(), places_.end(), places.begin(), places.end());
}

int Membership::visit(visitproc visit, void* arg) const {
  Py_VISIT(held_.ptr());
  for (const Group& group : groups_) Py_VISIT(group.reference.ptr());
  return 0;
}

void Membership::clear() {
  held_.release().dec_ref();
  groups_.clear();
  aliases_.clear();
}

}  // namespace sgdr_fused
