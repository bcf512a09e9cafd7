// The squares of a chunk: of its parameters, and of the directions that a rule gives for them.
#pragma once

#include <cuda_runtime.h>

#include "cuda/partial_sums.cuh"
#include "cuda/update_element.cuh"
#include "cuda/vector.cuh"

namespace sgdr_fused::cuda {

// The partial sums of both kinds of squares, in shared memory.
struct SquareSums {
  double param[kPairSums];
  double direction[kPairSums];
};

// One element's squares. The gradient is unscaled and clipped as the update will see it, and
// written nowhere.
template <class Rule, class T>
__device__ Squares squares_of(const Rule& rule, GradChanges changes,
                              const volatile GradFactors<T>& factors, T p, T g, const T* states) {
  if (changes.unscales) g = g / factors.scale;
  const double direction = rule.direction(p, clip_element<T>(g, changes, factors), states);
  const double param = p;
  return {param * param, direction * direction};
}

// Adds the squares of a pair, whose second element is missing at the end of an odd number of them.
template <class ElementSquares>
__device__ void add_pair(SquareSums& partial_sums, int first, int count,
                         const ElementSquares& squares) {
  Squares pair = {};
#pragma unroll 1
  for (int i = first; i < count && i < first + 2; ++i) {
    const Squares square = squares(i);
    pair = {pair.param + square.param, pair.direction + square.direction};
  }
  partial_sums.param[first / 2 % kPairSums] += pair.param;
  partial_sums.direction[first / 2 % kPairSums] += pair.direction;
}

// Adds `count` elements of a tensor whose operands are dense. Whole rows, of a pair for each
// partial sum, are loaded as vectors; the rest, and all of a chunk with an unaligned operand, pair
// by pair. The sums stay in shared memory and volatile: two for each pair of a vector are too many
// registers.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void measure_dense(const Rule& rule, GradChanges changes,
                              const volatile GradFactors<opmath_t<param_t>>& factors,
                              const volatile ChunkOperands& chunk, int count,
                              SquareSums& partial_sums) {
  using T = opmath_t<param_t>;
  using States = StateStorage<state_t>;
  constexpr int kParamCount = Vector<param_t>::kCount, kStateCount = States::kVectorCount;
  constexpr int kCount = kParamCount > kStateCount ? kParamCount : kStateCount;
  constexpr int kPart = kParamCount < kStateCount ? kParamCount : kStateCount;
  constexpr bool kMayHaveRemainder = sizeof(param_t) == sizeof(int16_t);
  constexpr int kRow = 2 * kPairSums;
  static_assert(kRow % (kThreads * kCount) == 0 && kChunk % kRow == 0 && kPart % 2 == 0);
  const int rows = chunk.aligned ? count / kRow * kRow : 0;

#pragma unroll 1
  for (int i = threadIdx.x * kCount; i < rows; i += kThreads * kCount) {
    volatile double* of_param = partial_sums.param + i % kRow / 2;
    volatile double* of_direction = partial_sums.direction + i % kRow / 2;
    const bool has_remainder = kMayHaveRemainder && chunk.remainder != nullptr;
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
      Squares squares[2];
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        T states[kStates > 0 ? kStates : 1] = {};
        s.at(part, j).load(states);
        squares[j % 2] = squares_of<Rule, T>(
            rule, changes, factors, load_param(p.at(part, j), has_remainder, r.at(part, j)),
            load(g.at(part, j)), states);
        if (j % 2 == 1) {
          const int pair = (part + j) / 2;
          of_param[pair] = of_param[pair] + (squares[0].param + squares[1].param);
          of_direction[pair] = of_direction[pair] + (squares[0].direction + squares[1].direction);
        }
      }
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int i = rows + 2 * static_cast<int>(threadIdx.x); i < count; i += 2 * kThreads) {
    add_pair(partial_sums, i, count, [&](int at) {
      T states[kStates > 0 ? kStates : 1] = {};
      States::template in_chunk<kStates>(chunk, at).load(states);
      const bool has_remainder = kMayHaveRemainder && chunk.remainder != nullptr;
      const int16_t remainder = has_remainder ? chunk.remainder[at] : int16_t{0};
      return squares_of<Rule, T>(
          rule, changes, factors,
          load_param(global<param_t>(chunk.param)[at], has_remainder, remainder),
          load(read_grad<param_t>(chunk.grad, chunk.grad_dtype, at)), states);
    });
  }
}

// The same through a layout, from the element with the coordinates `start` on.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void measure_strided(const Rule& rule, GradChanges changes,
                                const volatile GradFactors<opmath_t<param_t>>& factors,
                                const Tensor& tensor, const Layout& layout, void* grad,
                                const int64_t (&start)[kMaxDims], int count,
                                SquareSums& partial_sums) {
  using T = opmath_t<param_t>;
#pragma unroll 1
  for (int i = 2 * static_cast<int>(threadIdx.x); i < count; i += 2 * kThreads) {
    add_pair(partial_sums, i, count, [&](int at) {
      int64_t offsets[2 + kStates];
      offsets_of<kParam>(layout, start, at, offsets);
      T states[kStates > 0 ? kStates : 1] = {};
      StateStorage<state_t>::template at_offsets<kStates>(tensor, offsets + 2).load(states);
      const bool has_remainder = tensor.remainder != nullptr;
      int64_t beside[1] = {};
      if (has_remainder) offsets_of<kRemainder>(layout, start, at, beside);
      const int16_t remainder = has_remainder ? tensor.remainder[beside[0]] : int16_t{0};
      const param_t& param = static_cast<const param_t*>(tensor.param)[offsets[0]];
      return squares_of<Rule, T>(
          rule, changes, factors, load_param(param, has_remainder, remainder),
          load(read_grad<param_t>(grad, tensor.grad_dtype, offsets[1])), states);
    });
  }
}

}  // namespace sgdr_fused::cuda
