// See watched.h.
#include "plan/guards.h"

#include <c10/util/StringUtil.h>

#include "plan/version_counter.h"

namespace sgdr_fused {
namespace {

// That autograd and autocast are to hear of a tensor says nothing of its memory.
const uint64_t kNotOfMemory =
    (c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset).raw_repr();

C10_ALWAYS_INLINE uint64_t keys_of(const at::TensorImpl* tensor) {
  return tensor->key_set().raw_repr() & ~kNotOfMemory;
}

// From the first element to behind the last one.
int64_t span_of(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  int64_t span = 1;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    span += (tensor.size(dim) - 1) * tensor.stride(dim);
  }
  return span;
}

// A loop, since calling memcmp takes longer.
C10_ALWAYS_INLINE bool same(c10::IntArrayRef a, const int64_t* b) {
  for (size_t dim = 0; dim < a.size(); ++dim) {
    if (a[dim] != b[dim]) return false;
  }
  return true;
}

// Whatever its values. The keys come first: with others there may be no storage to look at.
C10_ALWAYS_INLINE bool unchanged(const Watched& watched) {
  const at::TensorImpl* impl = watched.impl;
  if (watched.place != nullptr && watched.place->unsafeGetTensorImpl() != impl) return false;
  if (keys_of(impl) != watched.keys || impl->dtype() != watched.dtype ||
      impl->storage_offset() != watched.offset || impl->is_contiguous() != watched.contiguous) {
    return false;
  }
  const c10::IntArrayRef sizes = impl->sizes();
  if (sizes.size() != static_cast<size_t>(watched.dims) || !same(sizes, watched.sizes)) {
    return false;
  }
  if (!watched.contiguous && !same(impl->strides(), watched.sizes + watched.dims)) return false;
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  const c10::DataPtr& data = storage->mutable_data_ptr();
  return data.get() == watched.begin && data.device() == watched.device &&
         storage->nbytes() == watched.nbytes;
}

// Tensors ahead of the one that is looked at. The objects of small tensors take more cache lines
// than their elements and are rarely in the first-level cache, or in the second.
constexpr int kAhead = 8;

C10_ALWAYS_INLINE void prefetch_tensor(const at::TensorImpl* tensor) {
  prefetch(tensor, sizeof(*tensor));
}

C10_ALWAYS_INLINE bool all_unchanged(const std::vector<Watched>& tensors) {
  const Watched* const end = tensors.data() + tensors.size();
  for (const Watched* tensor = tensors.data(); tensor != end; ++tensor) {
    if (end - tensor > kAhead) prefetch_tensor(tensor[kAhead].impl);
    if (!unchanged(*tensor)) return false;
    prefetch_version(tensor->impl);
  }
  return true;
}

}  // namespace

std::string memory_fault(const at::Tensor& tensor) {
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (tensor.layout() != at::kStrided) return c10::str("its layout is ", tensor.layout());
  if (tensor.is_neg() || tensor.is_conj())
    return "it is negated or conjugated only when it is read";
  if (tensor._is_zerotensor()) return "it has no memory, and stands for zeros";
  const c10::DispatchKeySet plain(
      {c10::DispatchKey::Dense, c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot});
  const uint64_t devices = (uint64_t{1} << c10::num_backends) - 1;
  if ((keys_of(impl) & ~plain.raw_repr() & ~devices) != 0) {
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

const int64_t* WatchedTensors::shape_of(const at::Tensor& tensor) {
  std::vector<int64_t> shape = tensor.sizes().vec();
  shape.insert(shape.end(), tensor.strides().begin(), tensor.strides().end());
  // States have their parameter's, and often one layer has the last one's.
  if (shapes_.empty() || shapes_.back() != shape) shapes_.push_back(std::move(shape));
  return shapes_.back().data();
}

void WatchedTensors::watch(const at::Tensor& tensor, const at::Tensor* place) {
  at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  TORCH_CHECK(storage != nullptr, "sgdr_fused: a tensor without a storage");
  tensors_.push_back({place, impl, storage->mutable_data_ptr().get(), storage->nbytes(),
                      tensor.storage_offset(), keys_of(impl), shape_of(tensor),
                      static_cast<int32_t>(tensor.dim()), tensor.is_contiguous(), tensor.dtype(),
                      storage->mutable_data_ptr().device()});
}

void WatchedTensors::keep(const at::Tensor& tensor) {
  const std::string fault = memory_fault(tensor);
  TORCH_CHECK(fault.empty(), "sgdr_fused: a tensor of shape ", tensor.sizes(),
              " that a step uses cannot be reached: ", fault);
  kept_.push_back(tensor);
}

void WatchedTensors::add(const at::Tensor& tensor) {
  keep(tensor);
  watch(tensor, nullptr);
}

void WatchedTensors::add_display(const at::Tensor& display) {
  add(display);
  displays_.emplace_back(display.unsafeGetTensorImpl(), display._version());
}

void WatchedTensors::add(const TensorSpec& spec, bool with_steps) {
  const auto first = static_cast<int32_t>(tensors_.size());
  for (const at::Tensor& tensor : {spec.param, spec.grad}) {
    const std::string fault = spec.active && tensor.defined() ? memory_fault(tensor) : "";
    TORCH_CHECK(fault.empty(), "sgdr_fused: a parameter or gradient of shape ", tensor.sizes(),
                " cannot be reached: ", fault);
  }
  watch(spec.param, spec.place);
  places_.push_back(spec.place);
  for (const at::Tensor& state : spec.states) add(state);
  if (spec.remainder.defined()) add(spec.remainder);
  if (spec.steps.defined() && with_steps) {
    add(spec.steps);
  } else if (spec.steps.defined()) {
    keep(spec.steps);
  }
  if (spec.product.defined()) add(spec.product);
  const auto last = static_cast<int32_t>(tensors_.size());
  if (spec.average.defined()) {
    add(spec.average);
    averages_.push_back(spec.average.unsafeGetTensorImpl());
  }
  const at::Tensor& like_grad = spec.grad.defined() ? spec.grad : spec.param;
  params_.push_back({first, last, spec.active, like_grad.is_contiguous(),
                     static_cast<uint16_t>(like_grad.itemsize()), like_grad.dtype(),
                     keys_of(like_grad.unsafeGetTensorImpl()), span_of(like_grad),
                     shape_of(like_grad) + like_grad.dim()});
  grads_.push_back(nullptr);
  grad_impls_.push_back(nullptr);
}

C10_ALWAYS_INLINE bool WatchedTensors::fits(const Param& param, const at::TensorImpl* grad) const {
  const Watched& watched = tensors_[param.first];
  if (!param.active || keys_of(grad) != param.grad_keys || grad->dtype() != param.grad_dtype ||
      grad->is_contiguous() != param.grad_contiguous) {
    return false;
  }
  const c10::IntArrayRef sizes = grad->sizes();
  if (sizes.size() != static_cast<size_t>(watched.dims) || !same(sizes, watched.sizes)) {
    return false;
  }
  return param.grad_contiguous || same(grad->strides(), param.grad_strides);
}

bool WatchedTensors::collect() {
  for (const auto& [display, version] : displays_) {
    if (display->version_counter().current_version() != version) return false;
  }
  if (!all_unchanged(tensors_)) return false;
  // Three loops, each of independent and short iterations, so that the processor overlaps the cache
  // misses of many: from a parameter to its gradient, its storage and the address is a long way.
  for (size_t i = 0; i < params_.size(); ++i) {
    const at::Tensor& grad = tensors_[params_[i].first].impl->grad();
    grad_impls_[i] = grad.defined() ? grad.unsafeGetTensorImpl() : nullptr;
    if (grad.defined()) prefetch_tensor(grad_impls_[i]);
  }
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grad_impls_[i] == nullptr) continue;
    if (!fits(params_[i], grad_impls_[i])) return false;
    prefetch(grad_impls_[i]->unsafe_storage().unsafeGetStorageImpl());
  }
  for (size_t i = 0; i < params_.size(); ++i) {
    grads_[i] = nullptr;
    const at::TensorImpl* grad = grad_impls_[i];
    if (grad == nullptr) continue;
    const Param& param = params_[i];
    c10::StorageImpl* storage = grad->unsafe_storage().unsafeGetStorageImpl();
    const c10::DataPtr& data = storage->mutable_data_ptr();
    if (data.device() != tensors_[param.first].device) return false;
    if (param.grad_span == 0) {
      static char empty;  // there is no address, but the step counts
      grads_[i] = &empty;
      continue;
    }
    const int64_t first = grad->storage_offset(), end = first + param.grad_span;
    if (static_cast<int64_t>(storage->nbytes()) < end * param.grad_itemsize) return false;
    grads_[i] = static_cast<char*>(data.get()) + first * param.grad_itemsize;
  }
  return true;
}

void WatchedTensors::hold(Held& held) const {
  for (const at::Tensor* place : places_) held.tensors.push_back(*place);
  for (const Watched& tensor : tensors_) held.storages.push_back(tensor.impl->unsafe_storage());
  for (const Param& param : params_) {
    const at::Tensor& grad = tensors_[param.first].impl->grad();
    if (!grad.defined()) continue;
    held.tensors.push_back(grad);
    held.storages.push_back(grad.storage());
  }
}

void WatchedTensors::bump_versions(bool grads_too) {
  // Only the device knows if they were written.
  for (const at::TensorImpl* average : averages_) count_version_up(average);
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grads_[i] == nullptr) continue;
    const Param& param = params_[i];
    for (int32_t k = param.first; k < param.last; ++k) count_version_up(tensors_[k].impl);
    if (grads_too) count_version_up(grad_impls_[i]);
  }
}

}  // namespace sgdr_fused
