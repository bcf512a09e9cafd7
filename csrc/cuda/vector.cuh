// 128 bits of global memory at a time, which are not read again soon: the caches need not keep
// them.
#pragma once

#include <cuda_runtime.h>

namespace sgdr_fused::cuda {

constexpr int kVectorBytes = 16;

// As many elements as one 128-bit access moves.
template <class scalar_t>
struct alignas(kVectorBytes) Vector {
  static constexpr int kCount = kVectorBytes / sizeof(scalar_t);
  scalar_t elements[kCount];
};

// Every operand is in global memory, which the compiler cannot know of a pointer that it loads.
template <class scalar_t>
__device__ scalar_t* global(void* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return static_cast<scalar_t*>(pointer);
}

// One operand's share of an iteration, kCount elements. A narrow type's is one vector. A wider
// type's comes in as many vectors one after the other, the parts: at once they would take too many
// registers.
template <class scalar_t, int kCount>
struct Share {
  static constexpr bool kWhole = Vector<scalar_t>::kCount == kCount;
  Vector<scalar_t> vector;

  __device__ void load(void* memory, int element) {
    *reinterpret_cast<int4*>(vector.elements) =
        __ldcs(reinterpret_cast<const int4*>(global<scalar_t>(memory) + element));
  }
  __device__ void store(void* memory, int element) const {
    __stcs(reinterpret_cast<int4*>(global<scalar_t>(memory) + element),
           *reinterpret_cast<const int4*>(vector.elements));
  }
  __device__ void load_whole(void* memory, int element) {
    if constexpr (kWhole) load(memory, element);
  }
  __device__ void load_part(void* memory, int element) {
    if constexpr (!kWhole) load(memory, element);
  }
  __device__ void store_whole(void* memory, int element) const {
    if constexpr (kWhole) store(memory, element);
  }
  __device__ void store_part(void* memory, int element) const {
    if constexpr (!kWhole) store(memory, element);
  }
  // Element j of the part that begins with element `part` of the share.
  __device__ scalar_t& at(int part, int j) { return vector.elements[kWhole ? part + j : j]; }
};

}  // namespace sgdr_fused::cuda
