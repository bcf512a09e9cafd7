// What a block does to a chunk whose operands are dense.
#pragma once

#include <cuda_runtime.h>

#include "cuda/update_element.cuh"
#include "cuda/vector.cuh"

namespace sgdr_fused::cuda {

// Brings the averages of kPart elements up to date, from number `element` of the chunk on, whose
// parameters are in p.
template <int kPart, class param_t, class Params, class Remainders>
__device__ void average_part(const volatile ChunkOperands& chunk, Params& p, Remainders& r,
                             bool has_remainder, int part, int element) {
  using T = opmath_t<param_t>;
  constexpr int kCount = Vector<T>::kCount;
  const AverageRule<T> rule(chunk.average_weight);
#pragma unroll
  for (int first = 0; first < kPart; first += kCount) {
    Elements<T, kCount, kPart == kCount> a;
    a.load(chunk.average, element + first);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const T param = load_param(p.at(part, first + j), has_remainder, r.at(part, first + j));
      a.at(0, j) = rule(a.at(0, j), param);
    }
    a.store(chunk.average, element + first);
  }
}

// Updates `count` elements of a tensor whose operands are dense. The body is 128-bit accesses; the
// tail, and all of a chunk with an unaligned operand, goes element by element.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void update_dense(const Rule& rule, GradChanges changes,
                             const volatile GradFactors<opmath_t<param_t>>& factors,
                             const volatile ChunkOperands& chunk, const volatile int& count) {
  using T = opmath_t<param_t>;
  using States = StateStorage<state_t>;
  constexpr int kParamCount = Vector<param_t>::kCount, kStateCount = States::kVectorCount;
  constexpr int kCount = kParamCount > kStateCount ? kParamCount : kStateCount;
  constexpr int kPart = kParamCount < kStateCount ? kParamCount : kStateCount;
  // Only what has 16 bits has a remainder.
  constexpr bool kMayHaveRemainder = sizeof(param_t) == sizeof(int16_t);

  // Not unrolled: half of the multiprocessor's threads hide the latency, if they have the
  // registers.
#pragma unroll 1
  for (int i = threadIdx.x * kCount; chunk.aligned && i + kCount <= count; i += kThreads * kCount) {
    const bool has_remainder = kMayHaveRemainder && chunk.remainder != nullptr;
    const bool randomly = chunk.rounds_randomly;
    Elements<param_t, kCount> p;
    GradElements<param_t, kCount> g;
    Elements<int16_t, kMayHaveRemainder ? kCount : 1> r;
    typename States::template Group<kStates, kCount> s;
    p.load_whole(chunk.param, i);
    g.load_whole(chunk.grad, chunk.grad_dtype, i);
    if (has_remainder) r.load(chunk.remainder, i);
    s.load_whole(chunk, i);
#pragma unroll
    for (int part = 0; part < kCount; part += kPart) {
      p.load_part(chunk.param, i + part);
      g.load_part(chunk.grad, chunk.grad_dtype, i + part);
      s.load_part(chunk, i + part);
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        update_element(rule, changes, factors, chunk, randomly, i + part + j, p.at(part, j),
                       has_remainder, r.at(part, j), g.at(part, j), s.at(part, j));
      }
      s.store_part(chunk, i + part);
      p.store_part(chunk.param, i + part);
      if (changes.unscales) g.store_part(chunk.grad, chunk.grad_dtype, i + part);
      if (chunk.average != nullptr) {
        average_part<kPart, param_t>(chunk, p, r, has_remainder, part, i + part);
      }
    }
    s.store_whole(chunk, i);
    p.store_whole(chunk.param, i);
    if (changes.unscales) g.store_whole(chunk.grad, chunk.grad_dtype, i);
    if (has_remainder) r.store(chunk.remainder, i);
  }

  const int body = chunk.aligned ? count / kCount * kCount : 0;
#pragma unroll 1
  for (int i = body + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    param_t& p = global<param_t>(chunk.param)[i];
    const bool has_remainder = kMayHaveRemainder && chunk.remainder != nullptr;
    int16_t remainder = has_remainder ? chunk.remainder[i] : int16_t{0};
    param_t g = read_grad<param_t>(chunk.grad, chunk.grad_dtype, i);
    update_element(rule, changes, factors, chunk, chunk.rounds_randomly, i, p, has_remainder,
                   remainder, g, States::template in_chunk<kStates>(chunk, i));
    if (changes.unscales) write_grad(chunk.grad, chunk.grad_dtype, i, g);
    if (has_remainder) chunk.remainder[i] = remainder;
    if (chunk.average != nullptr) {
      T& average = global<T>(chunk.average)[i];
      average =
          AverageRule<T>(chunk.average_weight)(average, load_param(p, has_remainder, remainder));
    }
  }
}

}  // namespace sgdr_fused::cuda
