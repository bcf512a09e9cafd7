// Autograd's version of a tensor, counted up without an atomic operation.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>

#include "math/prefetch.h"

namespace sgdr_fused {
namespace version_counter {

// c10 offers an atomic increment only. That makes the processor wait for all stores before it and
// keeps it from looking ahead, so the counters' cache misses add up: a third of the time of a step
// of many small tensors. The standard lets an explicit instantiation name a private member.
template <auto kMember>
struct Expose {
  friend auto* counter_of(const c10::VariableVersion& version) {
    return (version.*kMember).get();  // null: an inference tensor, which has no versions
  }
};
template struct Expose<&c10::VariableVersion::version_counter_>;
auto* counter_of(const c10::VariableVersion& version);

}  // namespace version_counter

C10_ALWAYS_INLINE void prefetch_version(const at::TensorImpl* tensor) {
  prefetch(version_counter::counter_of(tensor->version_counter()));
}

// Does what bump_version() does, but two threads must not call it for the same tensor at once.
C10_ALWAYS_INLINE void count_version_up(const at::TensorImpl* tensor) {
  auto* counter = version_counter::counter_of(tensor->version_counter());
  if (counter == nullptr) return;
  std::atomic<uint32_t>& version = counter->version_;
  version.store(version.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

}  // namespace sgdr_fused
