// Guards of the tensors that a plan has the addresses of: whether the tensors are what they were,
// and their versions. This is the one list, and the one check, of all memory that a step reads or
// writes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <vector>

#include "plan/sharded.h"
#include "plan/specs.h"
#include "plan/tensor_memory.h"

namespace sgdr_fused {

// What a tensor was when the plan was made. Every step looks at all guards, so they are small and
// lie side by side.
struct Guard {
  at::TensorImpl* impl;
  const void* begin;     // of the storage
  size_t nbytes;         // of the storage
  int64_t offset;        // into it, in elements
  uint64_t keys;         // memory_keys_of() the tensor
  const int64_t* sizes;  // and behind them the strides, unless it is contiguous
  int32_t dims;
  bool contiguous;
  caffe2::TypeMeta dtype;
  c10::Device device;
};

// What keeps memory alive while other threads run beside a step.
struct Held {
  std::vector<at::Tensor> tensors;
  std::vector<c10::Storage> storages;  // a tensor may be given another one meanwhile
};

class Guards {
 public:
  // A parameter, its memory, its gradient's strides and all that it carries; what may be hidden is
  // guarded only if `guards_hidden`.
  void add(const ParamSpec& spec, bool guards_hidden);
  // Anything else that a step reads or writes.
  void add(const at::Tensor& tensor);
  // What shows a hyperparameter, and must not be written by anybody else.
  void add_display(const at::Tensor& display);

  // Looks at all tensors, and at this step's gradients. False: something is not as it was. The
  // Python objects of the parameters have to be alive.
  bool collect();
  // What collect() found, in the order of add(); null: no gradient.
  const std::vector<void*>& grads() const { return grads_; }
  // Makes `held` hold all memory that collect() has found.
  void hold(Held& held) const;
  // To be called after a step: counts up the versions of all that it may have written.
  void bump_versions(bool grads_too);

  // All but the parameters and their gradients.
  const std::vector<at::Tensor>& kept() const { return kept_; }
  // Where the Python objects of the parameters have their tensors.
  const std::vector<const at::Tensor*>& places() const { return places_; }

 private:
  struct Param {
    // Who the parameter is. Nothing holds that tensor for us, and torch.utils.swap_tensors may put
    // another one at the place where the Python object has it. It owns the gradient.
    const at::Tensor* place;
    at::TensorImpl* identity;
    // Where its memory is, and what it carries: these of guards_, beginning with the memory.
    int32_t first, last;
    bool active;   // else it may have no gradient
    bool sharded;  // its memory and its gradient's are local_part() of them
    bool grad_contiguous;
    uint16_t grad_itemsize;
    caffe2::TypeMeta grad_dtype;
    uint64_t grad_keys;
    int64_t grad_span;            // span_of() the gradient
    const int64_t* grad_strides;  // unless it is contiguous
  };

  void guard(const at::Tensor& tensor);
  void keep(const at::Tensor& tensor);
  void add_carried(const ParamSpec& spec, bool guards_hidden, bool written_anyway);
  const int64_t* shape_of(const at::Tensor& tensor);
  bool fits(const Param& param, const at::TensorImpl* grad) const;
  const at::Tensor* local_grad(size_t param, const at::Tensor& grad);

  std::vector<Param> params_;
  std::vector<Placement> grad_placements_;  // of the gradients of those that are sharded
  std::vector<const at::Tensor*> places_;
  std::vector<Guard> guards_;
  std::vector<at::TensorImpl*> written_anyway_;  // whether there is a gradient or not
  std::vector<std::pair<at::TensorImpl*, uint32_t>> displays_;  // with the version each must have
  std::vector<at::Tensor> kept_;
  std::deque<std::vector<int64_t>> shapes_;  // that guards_ points into
  std::vector<at::TensorImpl*> grad_impls_;
  std::vector<void*> grads_;
};

}  // namespace sgdr_fused
