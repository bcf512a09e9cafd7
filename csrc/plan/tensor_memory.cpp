// See tensor_memory.h.
#include "plan/tensor_memory.h"

#include <c10/util/StringUtil.h>

namespace sgdr_fused {

int64_t span_of(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  int64_t span = 1;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    span += (tensor.size(dim) - 1) * tensor.stride(dim);
  }
  return span;
}

std::string memory_fault(const at::Tensor& tensor) {
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (tensor.layout() != at::kStrided) return c10::str("its layout is ", tensor.layout());
  if (tensor.is_neg() || tensor.is_conj())
    return "it is negated or conjugated only when it is read";
  if (tensor._is_zerotensor()) return "it has no memory, and stands for zeros";
  c10::DispatchKeySet plain(  // not const: raw_repr() was no const member before torch 2.5
      {c10::DispatchKey::Dense, c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot});
  const uint64_t devices = (uint64_t{1} << c10::num_backends) - 1;
  if ((memory_keys_of(impl) & ~plain.raw_repr() & ~devices) != 0) {
    return c10::str("it is not plain memory, but ", c10::toString(tensor.key_set()));
  }
  if (tensor.numel() == 0) return "";
  if (!impl->has_storage() || tensor.is_meta()) return "it has no memory";
  const size_t bytes = impl->unsafe_storage().nbytes();
  const size_t needed = (tensor.storage_offset() + span_of(tensor)) * tensor.itemsize();
  if (bytes < needed) {
    return c10::str("its storage has ", bytes, " bytes, where it takes ", needed);
  }
  return impl->unsafe_storage().data() == nullptr ? "it has no memory" : "";
}

}  // namespace sgdr_fused
