// Where the elements of a tensor are, and whether they can be reached.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace sgdr_fused {

// What of torch's dispatch keys says nothing about memory: that autograd and autocast are to hear
// of the tensor.
inline const uint64_t kKeysBesideMemory =
    (c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset).raw_repr();

// The rest of a tensor's keys: its layout, the kind of its device, and whether it is plain memory.
C10_ALWAYS_INLINE uint64_t memory_keys_of(const at::TensorImpl* tensor) {
  return tensor->key_set().raw_repr() & ~kKeysBesideMemory;
}

// The number of elements from the first one to behind the last one.
int64_t span_of(const at::Tensor& tensor);

// Why a tensor's elements are not where its strides and its storage say; empty: they are.
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
