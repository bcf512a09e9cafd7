// Notices edits of the lists and mappings that a user may change without telling the optimizer.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace sgdr_fused {

// What param_groups, each group's params, and the user's own mappings that ours stand for were when
// the plans were made. It holds no group, no list and no parameter, so none of them lives longer
// because of it.
class Membership {
 public:
  // `aliases` has a pair (ours, the user's) for each mapping of ours that stands for one of the
  // user's. `changes.plan` is another object than `seen` as soon as anything else was written.
  Membership(const pybind11::list& param_groups, const pybind11::list& aliases,
             const pybind11::object& changes, const pybind11::object& seen);

  // Whether everything is as it was. If so, every parameter that was there is alive.
  bool unchanged(const pybind11::list& param_groups) const;
  // Notes a change that the extension makes: all others who compare changes.plan will see it.
  void renew();
  // The object that changes.plan has to be.
  pybind11::object seen() const { return pybind11::reinterpret_borrow<pybind11::object>(seen_); }
  // Whether all of these are places where the parameters have their tensors.
  bool has(std::vector<const at::Tensor*> places) const;
  // A number that no other Membership has.
  int64_t number() const { return number_; }
  // For Python's garbage collector: visits what is held, and lets go of it.
  int visit(visitproc visit, void* arg) const;
  void clear();

 private:
  struct Param {
    PyObject* object;    // only compared: it may be gone
    PyTypeObject* type;  // one that is gone may have left its address to anything
  };
  struct Group {
    pybind11::object reference;  // a weak one, or the group itself where it allows none
    std::vector<Param> params;
  };
  struct Alias {
    PyObject *ours, *theirs;
  };

  int64_t number_;
  std::vector<Group> groups_;
  std::vector<Alias> aliases_;
  PyObject *changes_, *seen_;
  std::vector<const at::Tensor*> places_;  // in ascending order
  pybind11::list held_;                    // types; aliases_, changes_, seen_
};

}  // namespace sgdr_fused
