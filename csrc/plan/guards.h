// The tensors that a plan has the addresses of: whether they are what they were, and their
// versions. The one list, and the one check, of all memory that a step reads or writes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "plan/specs.h"

namespace sgdr_fused {

// Every step looks at all of these, so they are small and lie side by side.
struct Watched {
  // Where the Python object of a parameter has its tensor: nothing holds that tensor for us, and
  // torch.utils.swap_tensors may put another there. Null: the plan keeps the tensor alive.
  const at::Tensor* place;
  at::TensorImpl* impl;
  const void* begin;  // of the storage
  size_t nbytes;      // of the storage
  int64_t offset;     // into it, in elements
  uint64_t keys;  // torch's dispatch keys: layout, kind of device, and whether it is plain memory
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

class WatchedTensors {
 public:
  // A parameter, its gradient's strides and all that is kept for it; `steps` only where a user can
  // reach it.
  void add(const TensorSpec& spec, bool with_steps);
  // Anything else that a step reads or writes.
  void add(const at::Tensor& tensor);
  // What shows a hyperparameter, and must not be written by anybody else.
  void add_display(const at::Tensor& display);

  // Looks at all tensors, and at this step's gradients. False: something is not as it was. The
  // Python objects of the parameters have to be alive.
  bool collect();
  // What collect() found, in the order of add(); null: no gradient.
  const std::vector<void*>& grads() const { return grads_; }
  // All of it, as collect() has found it.
  void hold(Held& held) const;
  // After a step, of all that it may have written.
  void bump_versions(bool grads_too);

  // All but the parameters and their gradients.
  const std::vector<at::Tensor>& kept() const { return kept_; }
  // Where the Python objects of the parameters have their tensors.
  const std::vector<const at::Tensor*>& places() const { return places_; }

 private:
  struct Param {
    int32_t first, last;  // of tensors_, beginning with the parameter itself
    bool active;          // else it may have no gradient
    bool grad_contiguous;
    uint16_t grad_itemsize;
    caffe2::TypeMeta grad_dtype;
    uint64_t grad_keys;
    int64_t grad_span;            // from its first element to behind its last one
    const int64_t* grad_strides;  // unless it is contiguous
  };

  void watch(const at::Tensor& tensor, const at::Tensor* place);
  void keep(const at::Tensor& tensor);
  const int64_t* shape_of(const at::Tensor& tensor);
  bool fits(const Param& param, const at::TensorImpl* grad) const;

  std::vector<Param> params_;
  std::vector<const at::Tensor*> places_;
  std::vector<Watched> tensors_;
  std::vector<at::TensorImpl*> averages_;  // written whether there is a gradient or not
  std::vector<std::pair<at::TensorImpl*, uint32_t>> displays_;  // with the version each must have
  std::vector<at::Tensor> kept_;
  std::deque<std::vector<int64_t>> shapes_;  // that tensors_ points into
  std::vector<at::TensorImpl*> grad_impls_;
  std::vector<void*> grads_;
};

// Why a tensor's elements are not where its strides and its storage say, or empty: they are.
std::string memory_fault(const at::Tensor& tensor);

// The address, without the checks that a plan has made: dense, no lazy or fake storage. Memory that
// is shared until it is written becomes the tensor's own.
C10_ALWAYS_INLINE void* data_of(const at::TensorImpl* tensor, int64_t itemsize) {
  return static_cast<char*>(tensor->unsafe_storage().unsafeGetStorageImpl()->mutable_data()) +
         tensor->storage_offset() * itemsize;
}
inline void* data_of(const at::Tensor& tensor) {
  return data_of(tensor.unsafeGetTensorImpl(), tensor.itemsize());
}

}  // namespace sgdr_fused
