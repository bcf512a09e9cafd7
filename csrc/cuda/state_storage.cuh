// How states are stored, apart from what they are: one at a time, or as many as an iteration
// covers.
#pragma once

#include "cuda/chunk_operands.cuh"
#include "cuda/vector.cuh"
#include "math/dtype.h"

namespace sgdr_fused::cuda {

// The states of one element, in registers or in memory.
template <class state_t, int kStates>
struct PlainStates {
  static constexpr int kAtLeastOne = kStates > 0 ? kStates : 1;  // for arrays
  state_t* states[kMaxStates] = {};

  template <class T>
  SGDR_HOST_DEVICE void load(T* to) const {
#pragma unroll
    for (int k = 0; k < kStates; ++k) to[k] = sgdr_fused::load(*states[k]);
  }
  // `element` is its number in the chunk.
  template <class T>
  SGDR_HOST_DEVICE void store(const T* from, const volatile ChunkOperands& chunk, bool randomly,
                              int element) const {
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      store_rounded(*states[k], from[k], chunk, randomly, 1 + k, element);
    }
  }
};

// The storage that a kernel's state_t stands for. Here each state is an array of state_t, and an
// element depends on no other. A storage that shares something among a group of elements, such as a
// scale, is a specialisation for a type that names it, with the same members: its Group holds the
// elements as they were computed, and store_whole() packs all of them at once. It decides for each
// state by itself how that is stored.
template <class state_t>
struct StateStorage {
  static constexpr int kVectorCount = Vector<state_t>::kCount;  // elements of a 128-bit access
  static constexpr int kElementBytes = sizeof(state_t);

  template <int kStates>
  using Element = PlainStates<state_t, kStates>;

  // The states of the kCount elements of an iteration, in registers; see Elements for the parts.
  template <int kStates, int kCount>
  struct Group {
    Elements<state_t, kCount> states[Element<kStates>::kAtLeastOne];

    __device__ void load_whole(const volatile ChunkOperands& chunk, int element) {
#pragma unroll
      for (int k = 0; k < kStates; ++k) states[k].load_whole(chunk.states[k], element);
    }
    __device__ void load_part(const volatile ChunkOperands& chunk, int element) {
#pragma unroll
      for (int k = 0; k < kStates; ++k) states[k].load_part(chunk.states[k], element);
    }
    __device__ void store_part(const volatile ChunkOperands& chunk, int element) const {
#pragma unroll
      for (int k = 0; k < kStates; ++k) states[k].store_part(chunk.states[k], element);
    }
    __device__ void store_whole(const volatile ChunkOperands& chunk, int element) const {
#pragma unroll
      for (int k = 0; k < kStates; ++k) states[k].store_whole(chunk.states[k], element);
    }
    __device__ Element<kStates> at(int part, int j) {
      Element<kStates> element;
#pragma unroll
      for (int k = 0; k < kStates; ++k) element.states[k] = &states[k].at(part, j);
      return element;
    }
  };

  // In memory: of a chunk whose operands are dense, and anywhere.
  template <int kStates>
  static __device__ Element<kStates> in_chunk(const volatile ChunkOperands& chunk, int element) {
    Element<kStates> found;
#pragma unroll
    for (int k = 0; k < kStates; ++k) found.states[k] = global<state_t>(chunk.states[k]) + element;
    return found;
  }
  template <int kStates>
  static __device__ Element<kStates> at_offsets(const Tensor& tensor, const int64_t* offsets) {
    Element<kStates> found;
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      found.states[k] = static_cast<state_t*>(tensor.states[k]) + offsets[k];
    }
    return found;
  }
  // Where a chunk begins, in memory that begins with the tensor; null: the tensor has no such
  // state.
  static __device__ void* from_element(void* memory, int64_t element) {
    return memory == nullptr ? nullptr : static_cast<state_t*>(memory) + element;
  }
};

}  // namespace sgdr_fused::cuda
