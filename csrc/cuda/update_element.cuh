// What a block does to one element, and to a chunk whose operands are not all dense.
#pragma once

#include "cuda/chunk_operands.cuh"
#include "cuda/gradient.cuh"
#include "cuda/launch.cuh"
#include "cuda/state_storage.cuh"
#include "step/clipping.h"
#include "step/fused_step.h"

namespace sgdr_fused::cuda {

// The parameter as it is stored: with its remainder, where it has one.
template <class param_t>
SGDR_HOST_DEVICE opmath_t<param_t> load_param(const param_t& param, bool has_remainder,
                                              int16_t remainder) {
  if constexpr (sizeof(param_t) == sizeof(int16_t)) {
    if (has_remainder) return join(param, remainder);
  }
  return load(param);
}

template <class T>
SGDR_HOST_DEVICE T clip_element(T g, GradChanges changes, const volatile GradFactors<T>& factors) {
  return changes.clips ? clamped<T>(g, factors.max_value) * factors.coefficient : g;
}

// Reads one element's operands, applies the rule, writes them back. The gradient is written only
// where it is unscaled, as torch's fused optimizers do. States: StateStorage::Element.
template <class Rule, class param_t, class States>
SGDR_HOST_DEVICE void update_element(const Rule& rule, GradChanges changes,
                                     const volatile GradFactors<opmath_t<param_t>>& factors,
                                     const volatile ChunkOperands& chunk, bool randomly,
                                     int element, param_t& param, bool has_remainder,
                                     int16_t& remainder, param_t& grad, const States& states) {
  using T = opmath_t<param_t>;
  T p = load_param(param, has_remainder, remainder), g = load(grad);
  if (changes.unscales) {
    g = g / factors.scale;
    store(grad, g);
  }
  g = clip_element<T>(g, changes, factors);
  T s[States::kAtLeastOne] = {};
  states.load(s);
  rule(p, g, s);
  if constexpr (sizeof(param_t) == sizeof(int16_t)) {
    if (has_remainder) split(param, remainder, p);
  }
  if (!has_remainder) store_rounded(param, p, chunk, randomly, 0, element);
  states.store(s, chunk, randomly, element);
}

// Updates `count` elements through a layout, from the one with the coordinates `start` on.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void update_strided(const Rule& rule, GradChanges changes,
                               const volatile GradFactors<opmath_t<param_t>>& factors,
                               const volatile ChunkOperands& chunk, const Tensor& tensor,
                               const Layout& layout, void* grad, const int64_t (&start)[kMaxDims],
                               int count) {
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += kThreads) {
    int64_t offsets[2 + kStates];
    offsets_of<kParam>(layout, start, i, offsets);
    const auto states = StateStorage<state_t>::template at_offsets<kStates>(tensor, offsets + 2);
    const bool has_remainder = tensor.remainder != nullptr;
    int64_t at[1] = {};
    if (has_remainder) offsets_of<kRemainder>(layout, start, i, at);
    int16_t remainder = has_remainder ? tensor.remainder[at[0]] : int16_t{0};
    param_t g = read_grad<param_t>(grad, tensor.grad_dtype, offsets[1]);
    update_element(rule, changes, factors, chunk, chunk.rounds_randomly, i,
                   static_cast<param_t*>(tensor.param)[offsets[0]], has_remainder, remainder, g,
                   states);
    if (changes.unscales) write_grad(grad, tensor.grad_dtype, offsets[1], g);
    if (has_remainder) tensor.remainder[at[0]] = remainder;
  }
}

// Brings only the averages of a chunk up to date: of a tensor that has no gradient at this step, or
// that has a layout. Each thread takes the elements that update_strided gives it.
template <class param_t>
__device__ void average_elements(const AverageRule<opmath_t<param_t>>& rule, const Tensor& tensor,
                                 const Layout* layout, const int64_t (&start)[kMaxDims],
                                 int64_t begin, int count) {
  using T = opmath_t<param_t>;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += kThreads) {
    int64_t offsets[3] = {begin + i, begin + i, begin + i};
    if (layout != nullptr) offsets_of<kRemainder>(*layout, start, i, offsets);
    const bool has_remainder = tensor.remainder != nullptr;
    const int16_t remainder = has_remainder ? tensor.remainder[offsets[kRemainder]] : int16_t{0};
    const param_t& param = static_cast<const param_t*>(tensor.param)[offsets[kParam]];
    T& average = static_cast<T*>(tensor.average)[offsets[kAverage]];
    average = rule(average, load_param(param, has_remainder, remainder));
  }
}

}  // namespace sgdr_fused::cuda
