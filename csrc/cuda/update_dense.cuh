// What a block does to a chunk whose operands are dense.
#pragma once

#include <cuda_runtime.h>

#include "update_element.cuh"

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

// Where this thread's next element lies in each operand of the update.
template <int kStates, class param_t, class state_t>
struct Pointers {
  param_t* param;
  param_t* grad;
  state_t* states[kMaxStates] = {};

  __device__ Pointers(const Tensor& tensor, void* grad, int64_t element)
      : param(global<param_t>(tensor.param) + element), grad(global<param_t>(grad) + element) {
#pragma unroll
    for (int k = 0; k < kStates; ++k) states[k] = global<state_t>(tensor.states[k]) + element;
  }
  __device__ void advance(int elements) {
    param += elements;
    grad += elements;
#pragma unroll
    for (int k = 0; k < kStates; ++k) states[k] += elements;
  }
  __device__ bool aligned() const {
    uintptr_t all = reinterpret_cast<uintptr_t>(param) | reinterpret_cast<uintptr_t>(grad);
#pragma unroll
    for (int k = 0; k < kStates; ++k) all |= reinterpret_cast<uintptr_t>(states[k]);
    return all % kVectorBytes == 0;
  }
};

// What the loop below needs for the averages, in shared memory and volatile, so that it is read
// where it is used and takes no registers in between.
struct ChunkAverage {
  void* average;  // of the chunk's first element
  double weight;  // 0: none, or it stays as it is
};

// The averages of as many consecutive elements as one 128-bit access of the parameter moves, from
// number `element` of the chunk on.
template <class param_t>
__device__ void average_vector(const volatile ChunkAverage& chunk, const Vector<param_t>& params,
                               int element) {
  using T = opmath_t<param_t>;
  using Averages = Vector<T>;
  const AverageRule<T> rule(chunk.weight);
  T* averages = global<T>(chunk.average) + element;
#pragma unroll
  for (int part = 0; part < Vector<param_t>::kCount; part += Averages::kCount) {
    Averages a = Averages::load(averages + part);
#pragma unroll
    for (int j = 0; j < Averages::kCount; ++j) {
      a.elements[j] = rule(a.elements[j], load(params.elements[part + j]));
    }
    a.store(averages + part);
  }
}

// `count` elements, from `begin` on, of a tensor whose operands are dense. The body is 128-bit
// accesses; the tail, and all of a chunk with an unaligned operand, goes element by element. The
// pointers move along, because others to start from again would take twice the registers.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void update_dense(const Rule& rule, bool unscale, opmath_t<param_t> grad_scale,
                             const volatile ChunkAverage& average, const Tensor& tensor, void* grad,
                             int64_t begin, int count) {
  using T = opmath_t<param_t>;
  using Params = Vector<param_t>;
  using States = Vector<state_t>;
  constexpr int kCount = Params::kCount;
  static_assert(kCount % States::kCount == 0);
  Pointers<kStates, param_t, state_t> at(tensor, grad, begin);
  const bool average_aligned =
      average.weight == 0.0 || reinterpret_cast<uintptr_t>(average.average) % kVectorBytes == 0;
  const int tail = at.aligned() && average_aligned ? count % kCount : count;

  at.advance(threadIdx.x * kCount);
  int left = count - tail - static_cast<int>(threadIdx.x) * kCount;  // from there to the tail
  // Not unrolled: half of the multiprocessor's threads hide the latency, if they have the
  // registers.
#pragma unroll 1
  for (; left > 0; left -= kThreads * kCount) {
    Params p = Params::load(at.param);
    Params g = Params::load(at.grad);
    // States of a wider type come in as many parts: at once they would take too many registers.
#pragma unroll
    for (int part = 0; part < kCount; part += States::kCount) {
      States s[kStates > 0 ? kStates : 1];
#pragma unroll
      for (int k = 0; k < kStates; ++k) s[k] = States::load(at.states[k] + part);
#pragma unroll
      for (int j = 0; j < States::kCount; ++j) {
        state_t* element_states[kMaxStates] = {};
#pragma unroll
        for (int k = 0; k < kStates; ++k) element_states[k] = &s[k].elements[j];
        update_element<kStates>(rule, unscale, grad_scale, p.elements[part + j],
                                g.elements[part + j], element_states);
      }
#pragma unroll
      for (int k = 0; k < kStates; ++k) s[k].store(at.states[k] + part);
    }
    p.store(at.param);
    if (unscale) g.store(at.grad);
    if (average.weight != 0.0) average_vector<param_t>(average, p, count - tail - left);
    at.advance(kThreads * kCount);
  }

  at.advance(left + static_cast<int>(threadIdx.x));
#pragma unroll 1
  for (int i = threadIdx.x; i < tail; i += kThreads) {
    update_element<kStates>(rule, unscale, grad_scale, *at.param, *at.grad, at.states);
    if (average.weight != 0.0) {
      T& value = global<T>(average.average)[count - tail + i];
      value = AverageRule<T>(average.weight)(value, load(*at.param));
    }
    at.advance(kThreads);
  }
}

}  // namespace sgdr_fused::cuda
