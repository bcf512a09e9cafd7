// Asks for memory some time before it is needed. Any address may be given: none is read.
#pragma once

#include <cstdint>

#include "math/compilers.h"

namespace sgdr_fused {

SGDR_HOST_DEVICE void prefetch(const void* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
  SGDR_PREFETCH(address);
#endif
}

// Asks for all cache lines of so many bytes.
SGDR_HOST_DEVICE void prefetch(const void* address, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) prefetch(static_cast<const char*>(address) + i);
}

}  // namespace sgdr_fused
