// See guards.h.
#include "plan/guards.h"

#include "plan/version_counter.h"

namespace sgdr_fused {
namespace {

// This is a loop, since calling memcmp takes longer.
C10_ALWAYS_INLINE bool same(c10::IntArrayRef a, const int64_t* b) {
  for (size_t dim = 0; dim < a.size(); ++dim) {
    if (a[dim] != b[dim]) return false;
  }
  return true;
}

// Whether the tensor is what it was, whatever its values are. The keys are compared first: a tensor
// with other keys may have no storage to look at.
C10_ALWAYS_INLINE bool unchanged(const Guard& guard) {
  const at::TensorImpl* impl = guard.impl;
  if (memory_keys_of(impl) != guard.keys || impl->dtype() != guard.dtype ||
      impl->storage_offset() != guard.offset || impl->is_contiguous() != guard.contiguous) {
    return false;
  }
  const c10::IntArrayRef sizes = impl->sizes();
  if (sizes.size() != static_cast<size_t>(guard.dims) || !same(sizes, guard.sizes)) {
    return false;
  }
  if (!guard.contiguous && !same(impl->strides(), guard.sizes + guard.dims)) return false;
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  const c10::DataPtr& data = storage->mutable_data_ptr();
  return data.get() == guard.begin && data.device() == guard.device &&
         storage->nbytes() == guard.nbytes;
}

// By how many guards tensors are fetched ahead of the one that is looked at. The objects of small
// tensors take more cache lines than their elements, and are rarely in the first-level cache or in
// the second.
constexpr int kAhead = 8;

C10_ALWAYS_INLINE void prefetch_tensor(const at::TensorImpl* tensor) {
  prefetch(tensor, sizeof(*tensor));
}

C10_ALWAYS_INLINE bool all_unchanged(const std::vector<Guard>& guards) {
  const Guard* const end = guards.data() + guards.size();
  for (const Guard* guard = guards.data(); guard != end; ++guard) {
    if (end - guard > kAhead) prefetch_tensor(guard[kAhead].impl);
    if (!unchanged(*guard)) return false;
    prefetch_version(guard->impl);
  }
  return true;
}

}  // namespace

const int64_t* Guards::shape_of(const at::Tensor& tensor) {
  std::vector<int64_t> shape = tensor.sizes().vec();
  shape.insert(shape.end(), tensor.strides().begin(), tensor.strides().end());
  // States have their parameter's, and often one layer has the last one's.
  if (shapes_.empty() || shapes_.back() != shape) shapes_.push_back(std::move(shape));
  return shapes_.back().data();
}

void Guards::guard(const at::Tensor& tensor) {
  at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  TORCH_CHECK(storage != nullptr, "sgdr_fused: a tensor without a storage");
  guards_.push_back({impl, storage->mutable_data_ptr().get(), storage->nbytes(),
                     tensor.storage_offset(), memory_keys_of(impl), shape_of(tensor),
                     static_cast<int32_t>(tensor.dim()), tensor.is_contiguous(), tensor.dtype(),
                     storage->mutable_data_ptr().device()});
}

void Guards::keep(const at::Tensor& tensor) {
  const std::string fault = memory_fault(tensor);
  TORCH_CHECK(fault.empty(), "sgdr_fused: a tensor of shape ", tensor.sizes(),
              " that a step uses cannot be reached: ", fault);
  kept_.push_back(tensor);
}

void Guards::add(const at::Tensor& tensor) {
  keep(tensor);
  guard(tensor);
}

void Guards::add_display(const at::Tensor& display) {
  add(display);
  displays_.emplace_back(display.unsafeGetTensorImpl(), display._version());
}

void Guards::add_carried(const ParamSpec& spec, bool guards_hidden, bool written_anyway) {
  for (size_t i = 0; i < kNumCarried; ++i) {
    const CarriedEntry& entry = kCarried[i];
    const at::Tensor& tensor = spec.carried[i];
    if (!tensor.defined() || entry.is_written_anyway != written_anyway) continue;
    if (entry.may_be_hidden && !guards_hidden) {
      keep(tensor);
      continue;
    }
    add(tensor);
    if (written_anyway) written_anyway_.push_back(tensor.unsafeGetTensorImpl());
  }
}

void Guards::add(const ParamSpec& spec, bool guards_hidden) {
  const auto first = static_cast<int32_t>(guards_.size());
  for (const at::Tensor& tensor : {spec.memory, spec.grad}) {
    const std::string fault = spec.active && tensor.defined() ? memory_fault(tensor) : "";
    TORCH_CHECK(fault.empty(), "sgdr_fused: a parameter or gradient of shape ", tensor.sizes(),
                " cannot be reached: ", fault);
  }
  // The parameter's own memory lives as long as the parameter, which the plan does not hold.
  if (!spec.memory.is_same(spec.param)) kept_.push_back(spec.memory);
  guard(spec.memory);
  places_.push_back(spec.place);
  for (const at::Tensor& state : spec.states) add(state);
  add_carried(spec, guards_hidden, false);
  const auto last = static_cast<int32_t>(guards_.size());
  add_carried(spec, guards_hidden, true);
  const at::Tensor& like_grad = spec.grad.defined() ? spec.grad : spec.memory;
  params_.push_back({spec.place, spec.param.unsafeGetTensorImpl(), first, last, spec.active,
                     spec.sharded, like_grad.is_contiguous(),
                     static_cast<uint16_t>(like_grad.itemsize()), like_grad.dtype(),
                     memory_keys_of(like_grad.unsafeGetTensorImpl()), span_of(like_grad),
                     shape_of(like_grad) + like_grad.dim()});
  grad_placements_.emplace_back();
  grads_.push_back(nullptr);
  grad_impls_.push_back(nullptr);
}

C10_ALWAYS_INLINE bool Guards::fits(const Param& param, const at::TensorImpl* grad) const {
  const Guard& guard = guards_[param.first];
  if (!param.active || memory_keys_of(grad) != param.grad_keys ||
      grad->dtype() != param.grad_dtype || grad->is_contiguous() != param.grad_contiguous) {
    return false;
  }
  const c10::IntArrayRef sizes = grad->sizes();
  if (sizes.size() != static_cast<size_t>(guard.dims) || !same(sizes, guard.sizes)) {
    return false;
  }
  return param.grad_contiguous || same(grad->strides(), param.grad_strides);
}

// The gradient that a kernel can read; null: not a gradient of this parameter's kind.
C10_ALWAYS_INLINE const at::Tensor* Guards::local_grad(size_t param, const at::Tensor& grad) {
  if (!params_[param].sharded) return &grad;
  const at::Tensor* local = local_part(grad);
  const at::Tensor& place = *params_[param].place;
  return local != nullptr && placed_like(grad, place, grad_placements_[param]) ? local : nullptr;
}

bool Guards::collect() {
  for (const auto& [display, version] : displays_) {
    if (display->version_counter().current_version() != version) return false;
  }
  // This comes first, since a tensor that is no longer at its place may be gone.
  for (const Param& param : params_) {
    if (param.place->unsafeGetTensorImpl() != param.identity) return false;
    if (!param.sharded) continue;
    const at::Tensor* local = local_part(*param.place);
    if (local == nullptr || local->unsafeGetTensorImpl() != guards_[param.first].impl) return false;
  }
  if (!all_unchanged(guards_)) return false;
  // These are three loops, each of independent and short iterations, so that the processor overlaps
  // the cache misses of many: from a parameter to its gradient, its storage and the address is a
  // long way.
  for (size_t i = 0; i < params_.size(); ++i) {
    const at::Tensor& grad = params_[i].identity->grad();
    grad_impls_[i] = nullptr;
    if (!grad.defined()) continue;
    const at::Tensor* local = local_grad(i, grad);
    if (local == nullptr) return false;
    grad_impls_[i] = local->unsafeGetTensorImpl();
    prefetch_tensor(grad_impls_[i]);
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
    if (data.device() != guards_[param.first].device) return false;
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

void Guards::hold(Held& held) const {
  for (const at::Tensor* place : places_) held.tensors.push_back(*place);
  for (const Guard& guard : guards_) held.storages.push_back(guard.impl->unsafe_storage());
  for (const Param& param : params_) {
    const at::Tensor& grad = param.identity->grad();
    if (!grad.defined()) continue;
    held.tensors.push_back(grad);
    held.storages.push_back((param.sharded ? *local_part(grad) : grad).storage());
  }
}

void Guards::bump_versions(bool grads_too) {
  // Only the device knows whether they were written, so they always count as written.
  for (const at::TensorImpl* tensor : written_anyway_) count_version_up(tensor);
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grads_[i] == nullptr) continue;
    const Param& param = params_[i];
    for (int32_t k = param.first; k < param.last; ++k) count_version_up(guards_[k].impl);
    if (guards_[param.first].impl != param.identity) count_version_up(param.identity);
    if (grads_too) count_version_up(grad_impls_[i]);
  }
}

}  // namespace sgdr_fused
