// Accesses to global memory, 128 bits at a time.
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

// Loads and stores of an int4 or int2 in global memory. kOnce: no thread comes back to what lies
// around it, so the caches need not keep it.
template <bool kOnce, class Bits>
__device__ void load_bits(Bits* to, const void* memory) {
  const Bits* from = static_cast<const Bits*>(memory);
  if constexpr (kOnce) {
    *to = __ldcs(from);
  } else {
    *to = *from;
  }
}
template <bool kOnce, class Bits>
__device__ void store_bits(void* memory, const Bits* from) {
  Bits* to = static_cast<Bits*>(memory);
  if constexpr (kOnce) {
    __stcs(to, *from);
  } else {
    *to = *from;
  }
}

// Whether what is accessed by vectors of kCount elements is asked for only once. It is not where
// they come in parts: between a thread's part and the next thread's lies their other part. In
// double the accesses, told so, would take more registers than there are (sm_80).
template <class scalar_t, int kCount>
constexpr bool kAskedOnce = Vector<scalar_t>::kCount == kCount && sizeof(scalar_t) < sizeof(double);

// The kCount elements of one operand that a thread has in an iteration. Those of a narrow type are
// one vector. Those of a wider type come in several vectors one after the other, the parts: all at
// once they would take too many registers.
template <class scalar_t, int kCount, bool kOnce = kAskedOnce<scalar_t, kCount>>
struct Elements {
  static constexpr bool kWhole = Vector<scalar_t>::kCount == kCount;
  Vector<scalar_t> vector;

  __device__ void load(void* memory, int element) {
    load_bits<kOnce>(reinterpret_cast<int4*>(vector.elements), global<scalar_t>(memory) + element);
  }
  __device__ void store(void* memory, int element) const {
    store_bits<kOnce>(global<scalar_t>(memory) + element,
                      reinterpret_cast<const int4*>(vector.elements));
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
  // Element j of the part that begins with element `part` of them.
  __device__ scalar_t& at(int part, int j) { return vector.elements[kWhole ? part + j : j]; }
};

}  // namespace sgdr_fused::cuda
