// The tensors that a plan has the addresses of: whether they are what they were, and their
// versions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "plan_specs.h"

namespace sgdr_fused {

// Strides as they were; null where the tensor was contiguous, as nearly always.
using Strides = std::unique_ptr<const std::vector<int64_t>>;

// Every step looks at all of these, so they are small and lie side by side.
struct Watched {
  explicit Watched(const at::Tensor& tensor);  // which somebody else keeps alive

  at::TensorImpl* impl;
  const at::StorageImpl* storage;
  void* data;
  int64_t numel;
  Strides strides;
  caffe2::TypeMeta dtype;
  uint16_t itemsize;
};

class WatchedTensors {
 public:
  // A parameter, its gradient's strides and all that is kept for it; `steps` only where a user can
  // reach it.
  void add(const TensorSpec& spec, bool with_steps);
  // Looks at all tensors, and at this step's gradients. False: something is not as it was.
  bool collect(bool hold_gradients);
  // What collect() found, in the order of add(); null: no gradient.
  const std::vector<void*>& grads() const { return grads_; }
  void let_go() { held_.clear(); }
  // After a step, of all that it may have written.
  void bump_versions(bool grads_too);

 private:
  struct Param {
    int32_t first, last;  // of tensors_, beginning with the parameter itself
    bool active;          // else it may have no gradient
    uint16_t grad_itemsize;
    caffe2::TypeMeta grad_dtype;
    Strides grad_strides;
  };

  bool fits(const Param& param, const at::TensorImpl* grad) const;

  std::vector<Param> params_;
  std::vector<Watched> tensors_;
  std::vector<Watched> averages_;  // written whether there is a gradient or not
  std::vector<at::TensorImpl*> grad_impls_;
  std::vector<void*> grads_;
  std::vector<at::Tensor> held_;  // the gradients while Python may run beside a large step
};

// The address, without the checks that a plan has made: dense, no lazy or fake storage.
C10_ALWAYS_INLINE void* data_of(const at::TensorImpl* tensor, int64_t itemsize) {
  const auto* storage = tensor->unsafe_storage().unsafeGetStorageImpl();
  return static_cast<char*>(const_cast<void*>(storage->data())) +
         tensor->storage_offset() * itemsize;
}
inline void* data_of(const at::Tensor& tensor) {
  return data_of(tensor.unsafeGetTensorImpl(), tensor.itemsize());
}

}  // namespace sgdr_fused
