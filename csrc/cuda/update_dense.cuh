// What a block does to a chunk whose operands are dense.
#pragma once

#include <cuda_runtime.h>

#include "cuda/update_element.cuh"
#include "cuda/vector.cuh"

namespace sgdr_fused::cuda {

// The averages of kPart elements, from number `element` of the chunk on, whose parameters are in p.
template <int kPart, class param_t, class Params, class Remainders>
__device__ void average_part(const volatile ChunkMemory& chunk, Params& p, Remainders& r,
                             bool has_remainder, int part, int element) {
  using T = opmath_t<param_t>;
  constexpr int kCount = Vector<T>::kCount;
  const AverageRule<T> rule(chunk.average_weight);
#pragma unroll
  for (int first = 0; first < kPart; first += kCount) {
    Share<T, kCount, kPart == kCount> a;
    a.load(chunk.average, element + first);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const T param = load_param(p.at(part, first + j), has_remainder, r.at(part, first + j));
      a.at(0, j) = rule(a.at(0, j), param);
    }
    a.store(chunk.average, element + first);
  }
}

// `count` elements of a tensor whose operands are dense. The body is 128-bit accesses; the tail,
// and all of a chunk with an unaligned operand, goes element by element.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void update_dense(const Rule& rule, GradChanges changes,
                             const volatile GradFactors<opmath_t<param_t>>& factors,
                             const volatile ChunkMemory& chunk, const volatile int& count) {
  using T = opmath_t<param_t>;
  constexpr int kParamCount = Vector<param_t>::kCount, kStateCount = Vector<state_t>::kCount;
  constexpr int kCount = kParamCount > kStateCount ? kParamCount : kStateCount;
  constexpr int kPart = kParamCount < kStateCount ? kParamCount : kStateCount;
  // Only what has 16 bits has a remainder.
  constexpr bool kMayHaveRemainder = sizeof(param_t) == sizeof(int16_t);

  // Not unrolled: half of the multiprocessor's threads hide the latency, if they have the
  // registers.
#pragma unroll 1
  for (int i = threadIdx.x * kCount; chunk.aligned && i + kCount <= count; i += kThreads * kCount) {
    const bool has_remainder = kMayHaveRemainder && chunk.remainder != nullptr;
    const bool by_lot = chunk.rounds_by_lot;
    Share<param_t, kCount> p;
    GradShare<param_t, kCount> g;
    Share<int16_t, kMayHaveRemainder ? kCount : 1> r;
    Share<state_t, kCount> s[kStates > 0 ? kStates : 1];
    p.load_whole(chunk.param, i);
    g.load_whole(chunk.grad, chunk.grad_dtype, i);
    if (has_remainder) r.load(chunk.remainder, i);
#pragma unroll
    for (int k = 0; k < kStates; ++k) s[k].load_whole(chunk.states[k], i);
#pragma unroll
    for (int part = 0; part < kCount; part += kPart) {
      p.load_part(chunk.param, i + part);
      g.load_part(chunk.grad, chunk.grad_dtype, i + part);
#pragma unroll
      for (int k = 0; k < kStates; ++k) s[k].load_part(chunk.states[k], i + part);
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        state_t* states[kMaxStates] = {};
#pragma unroll
        for (int k = 0; k < kStates; ++k) states[k] = &s[k].at(part, j);
        update_element<kStates>(rule, changes, factors, chunk, by_lot, i + part + j, p.at(part, j),
                                has_remainder, r.at(part, j), g.at(part, j), states);
      }
#pragma unroll
      for (int k = 0; k < kStates; ++k) s[k].store_part(chunk.states[k], i + part);
      p.store_part(chunk.param, i + part);
      if (changes.unscales) g.store_part(chunk.grad, chunk.grad_dtype, i + part);
      if (chunk.average != nullptr) {
        average_part<kPart, param_t>(chunk, p, r, has_remainder, part, i + part);
      }
    }
#pragma unroll
    for (int k = 0; k < kStates; ++k) s[k].store_whole(chunk.states[k], i);
    p.store_whole(chunk.param, i);
    if (changes.unscales) g.store_whole(chunk.grad, chunk.grad_dtype, i);
    if (has_remainder) r.store(chunk.remainder, i);
  }

  const int body = chunk.aligned ? count / kCount * kCount : 0;
#pragma unroll 1
  for (int i = body + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    state_t* states[kMaxStates] = {};
#pragma unroll
    for (int k = 0; k < kStates; ++k) states[k] = global<state_t>(chunk.states[k]) + i;
    param_t& p = global<param_t>(chunk.param)[i];
    const bool has_remainder = kMayHaveRemainder && chunk.remainder != nullptr;
    int16_t remainder = has_remainder ? chunk.remainder[i] : int16_t{0};
    param_t g = read_grad<param_t>(chunk.grad, chunk.grad_dtype, i);
    update_element<kStates>(rule, changes, factors, chunk, chunk.rounds_by_lot, i, p, has_remainder,
                            remainder, g, states);
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
