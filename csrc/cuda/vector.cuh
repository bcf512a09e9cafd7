// 128 bits of global memory at a time.
#pragma once

#include <cuda_runtime.h>

namespace sgdr_fused::cuda {

constexpr int kVectorBytes = 16;

// As many elements as one 128-bit access moves.
template <class scalar_t>
struct alignas(kVectorBytes) Vector {
  static constexpr int kCount = kVectorBytes / sizeof(scalar_t);
  scalar_t elements[kCount];

  __device__ static Vector load(const scalar_t* from) {
    Vector vector;
    *reinterpret_cast<int4*>(vector.elements) = *reinterpret_cast<const int4*>(from);
    return vector;
  }
  __device__ void store(scalar_t* to) const {
    *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(elements);
  }
};

// Every operand is in global memory, which the compiler cannot know of a pointer that it loads.
template <class T>
__device__ T* global(void* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return static_cast<T*>(pointer);
}

}  // namespace sgdr_fused::cuda
