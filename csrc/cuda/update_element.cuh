// What a block does to one element, and to a chunk whose operands are not all dense.
#pragma once

#include "../fused_step.h"

namespace sgdr_fused::cuda {

constexpr int kThreads = 256;  // per block

// Reads one element's operands, applies the rule, writes them back. The gradient is written only
// where it is unscaled, as torch's fused optimizers do.
template <int kStates, class Rule, class param_t, class state_t>
SGDR_HOST_DEVICE void update_element(const Rule& rule, bool unscale, opmath_t<param_t> grad_scale,
                                     param_t& param, param_t& grad, state_t* const* states) {
  using T = opmath_t<param_t>;
  T p = load(param), g = load(grad);
  if (unscale) {
    g = g / grad_scale;
    store(grad, g);
  }
  T s[kStates > 0 ? kStates : 1] = {};
#pragma unroll
  for (int k = 0; k < kStates; ++k) s[k] = load(*states[k]);
  rule(p, g, s);
  store(param, p);
#pragma unroll
  for (int k = 0; k < kStates; ++k) store(*states[k], s[k]);
}

// Elements of a chunk of `count`, through a layout, from the one with the coordinates `start` on.
template <int kStates, class Rule, class param_t, class state_t>
__device__ void update_strided(const Rule& rule, bool unscale, opmath_t<param_t> grad_scale,
                               const Tensor& tensor, const Layout& layout, void* grad,
                               const int64_t (&start)[kMaxDims], int count) {
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += kThreads) {
    int64_t offsets[2 + kStates];
    offsets_of<kParam>(layout, start, i, offsets);
    state_t* states[kMaxStates] = {};
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      states[k] = static_cast<state_t*>(tensor.states[k]) + offsets[2 + k];
    }
    update_element<kStates>(rule, unscale, grad_scale,
                            static_cast<param_t*>(tensor.param)[offsets[0]],
                            static_cast<param_t*>(grad)[offsets[1]], states);
  }
}

// Only the averages of a chunk: of a tensor that has no gradient at this step, or a layout. Each
// thread takes the elements that update_strided gives it.
template <class param_t>
__device__ void average_elements(const AverageRule<opmath_t<param_t>>& rule, const Tensor& tensor,
                                 const Layout* layout, const int64_t (&start)[kMaxDims],
                                 int64_t begin, int count) {
  using T = opmath_t<param_t>;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += kThreads) {
    int64_t offsets[2] = {begin + i, begin + i};
    if (layout != nullptr) offsets_of<kAverage>(*layout, start, i, offsets);
    T& average = static_cast<T*>(tensor.average)[offsets[0]];
    average = rule(average, load(static_cast<const param_t*>(tensor.param)[offsets[1]]));
  }
}

}  // namespace sgdr_fused::cuda
