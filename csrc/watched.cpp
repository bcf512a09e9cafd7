// See watched.h.
#include "watched.h"

#include <algorithm>

#include "version_counter.h"

namespace sgdr_fused {
namespace {

Strides strides_of(const at::Tensor& tensor) {
  if (tensor.is_contiguous()) return nullptr;
  return std::make_unique<std::vector<int64_t>>(tensor.strides().vec());
}

C10_ALWAYS_INLINE bool has_strides(const at::TensorImpl* tensor, const Strides& strides) {
  return strides == nullptr ? tensor->is_contiguous()
                            : tensor->strides() == c10::IntArrayRef(*strides);
}

// A loop, since calling memcmp takes longer.
C10_ALWAYS_INLINE bool same_sizes(const at::TensorImpl* a, const at::TensorImpl* b) {
  const c10::IntArrayRef of_a = a->sizes(), of_b = b->sizes();
  if (of_a.size() != of_b.size()) return false;
  for (size_t dim = 0; dim < of_a.size(); ++dim) {
    if (of_a[dim] != of_b[dim]) return false;
  }
  return true;
}

// Whatever its values, and its sizes as long as the memory is the same.
C10_ALWAYS_INLINE bool unchanged(const Watched& watched) {
  const at::TensorImpl* impl = watched.impl;
  return data_of(impl, watched.itemsize) == watched.data && impl->numel() == watched.numel &&
         impl->dtype() == watched.dtype && has_strides(impl, watched.strides);
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
    if (end - tensor > kAhead) {
      prefetch_tensor(tensor[kAhead].impl);
      prefetch(tensor[kAhead].storage, sizeof(*tensor->storage) / 2);
    }
    if (!unchanged(*tensor)) return false;
    prefetch_version(tensor->impl);
  }
  return true;
}

}  // namespace

Watched::Watched(const at::Tensor& tensor)
    : impl(tensor.unsafeGetTensorImpl()),
      storage(tensor.storage().unsafeGetStorageImpl()),
      data(data_of(tensor)),
      numel(tensor.numel()),
      strides(strides_of(tensor)),
      dtype(tensor.dtype()),
      itemsize(static_cast<uint16_t>(tensor.itemsize())) {}

void WatchedTensors::add(const TensorSpec& spec, bool with_steps) {
  const auto first = static_cast<int32_t>(tensors_.size());
  tensors_.emplace_back(spec.param);
  for (const at::Tensor& state : spec.states) tensors_.emplace_back(state);
  if (spec.remainder.defined()) tensors_.emplace_back(spec.remainder);
  if (spec.steps.defined() && with_steps) tensors_.emplace_back(spec.steps);
  if (spec.product.defined()) tensors_.emplace_back(spec.product);
  if (spec.average.defined()) averages_.emplace_back(spec.average);
  const at::Tensor& like_grad = spec.grad.defined() ? spec.grad : spec.param;
  params_.push_back({first, static_cast<int32_t>(tensors_.size()), spec.active,
                     static_cast<uint16_t>(like_grad.itemsize()), like_grad.dtype(),
                     strides_of(like_grad)});
  grads_.push_back(nullptr);
  grad_impls_.push_back(nullptr);
}

C10_ALWAYS_INLINE bool WatchedTensors::fits(const Param& param, const at::TensorImpl* grad) const {
  const at::TensorImpl* impl = tensors_[param.first].impl;
  return param.active && grad->layout() == at::kStrided && grad->dtype() == param.grad_dtype &&
         grad->device() == impl->device() && same_sizes(grad, impl) &&
         has_strides(grad, param.grad_strides);
}

bool WatchedTensors::collect(bool hold_gradients) {
  held_.clear();
  if (!all_unchanged(tensors_) || !all_unchanged(averages_)) return false;
  // Three loops, each of independent and short iterations, so that the processor overlaps the cache
  // misses of many: from a parameter to its gradient, its storage and the address is a long way.
  for (size_t i = 0; i < params_.size(); ++i) {
    const at::Tensor& grad = tensors_[params_[i].first].impl->grad();
    grad_impls_[i] = grad.defined() ? grad.unsafeGetTensorImpl() : nullptr;
    if (grad.defined()) prefetch_tensor(grad_impls_[i]);
    if (hold_gradients && grad.defined()) held_.push_back(grad);
  }
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grad_impls_[i] == nullptr) continue;
    if (!fits(params_[i], grad_impls_[i])) return false;
    prefetch(grad_impls_[i]->unsafe_storage().unsafeGetStorageImpl());
  }
  for (size_t i = 0; i < params_.size(); ++i) {
    const Param& param = params_[i];
    // A tensor without elements has no address, but its step counts.
    static char empty;
    grads_[i] = grad_impls_[i] == nullptr          ? nullptr
                : tensors_[param.first].numel == 0 ? &empty
                                                   : data_of(grad_impls_[i], param.grad_itemsize);
  }
  return true;
}

void WatchedTensors::bump_versions(bool grads_too) {
  // Only the device knows if they were written.
  for (const Watched& average : averages_) count_version_up(average.impl);
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grads_[i] == nullptr) continue;
    const Param& param = params_[i];
    for (int32_t k = param.first; k < param.last; ++k) count_version_up(tensors_[k].impl);
    if (grads_too) count_version_up(grad_impls_[i]);
  }
}

}  // namespace sgdr_fused
