// The loops over a tensor's elements on the CPU: right where they are, or through blocks.
#pragma once

#include <algorithm>

#include "cpu/gradients.h"
#include "cpu/instruction_set.h"
#include "cpu/memory.h"
#include "math/prefetch.h"
#include "step/fused_step.h"

namespace sgdr_fused::cpu {

// Ranges of different threads meet at multiples of this many elements, so that no two threads
// write to one cache line of the same tensor.
constexpr int64_t kUnit = 64;

// A tensor that takes part in a step, with its algorithm's scalars.
template <class Scalars>
struct Span {
  const Item* item;
  const Tensor* tensor;
  const Scalars* scalars;
  int64_t first_unit;  // where it begins when all are laid end to end
};

// What a thread takes of all units.
struct Share {
  int64_t first, last;
};

template <class Scalars>
SGDR_HOST_DEVICE int64_t begin_of(const Span<Scalars>& span, const Share& share) {
  return share.first > span.first_unit ? (share.first - span.first_unit) * kUnit : 0;
}
template <class Scalars>
SGDR_HOST_DEVICE int64_t end_of(const Span<Scalars>& span, const Share& share) {
  const int64_t end = (share.last - span.first_unit) * kUnit;
  return end < span.tensor->numel ? end : span.tensor->numel;
}

// What a step does beside the update.
struct Extras {
  const float* grad_scale;  // null: gradients are as they should be
  const Clip* clip;         // null: nothing
  double average_weight;    // 0: averages stay as they are
  const Plan* plan;         // its layouts and lots
};

// The loop over elements, of which all operands are in T. They never overlap: checked where the
// plan is made, and the scratch is our own.
template <class Rule, class T, int kStates>
struct UpdateLoop {
  SGDR_HOST_DEVICE static void run(const Rule& rule, T* param, const T* grad, T* const* states,
                                   int64_t count) {
    T* state0 = states[0];
    T* state1 = states[1];
    T* state2 = states[2];
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      T p = param[i];
      T s[kMaxStates] = {};
      if constexpr (kStates > 0) s[0] = state0[i];
      if constexpr (kStates > 1) s[1] = state1[i];
      if constexpr (kStates > 2) s[2] = state2[i];
      rule(p, grad[i], s);
      param[i] = p;
      if constexpr (kStates > 0) state0[i] = s[0];
      if constexpr (kStates > 1) state1[i] = s[1];
      if constexpr (kStates > 2) state2[i] = s[2];
    }
  }
};

template <class T>
struct AverageLoop {
  SGDR_HOST_DEVICE static void run(AverageRule<T> rule, T* average, const T* param, int64_t count) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) average[i] = rule(average[i], param[i]);
  }
};

// The update by gradients that are treated before: unscaled in place, as torch's fused optimizers
// do, and clipped for the update alone. Where they are clipped, at most kBlock elements.
template <class Rule, class T, int kStates>
struct TreatedLoop {
  SGDR_HOST_DEVICE static void run(const Rule& rule, const Treatment<T>& treatment, T* param,
                                   T* grad, T* const* states, int64_t count) {
    alignas(64) T clipped[kBlock];
    if (treatment.unscales) UnscaleLoop<T>::run(treatment, grad, grad, count);
    if (treatment.clips) {
      ClipLoop<T>::run(treatment, clipped, grad, count);
      grad = clipped;
    }
    UpdateLoop<Rule, T, kStates>::run(rule, param, grad, states, count);
  }
};

// Many tensors by one call, since a small one's update takes no longer than to choose its loop and
// to convert its scalars, which neighbours share.
template <class Algorithm, class T, int kStates>
struct SpansLoop {
  using Scalars = typename Algorithm::Scalars;
  using Rule = typename Algorithm::template Rule<T, kStates>;

  // The first lines of a tensor to come: the processor's own guess sets in a few lines later, which
  // for a small tensor is too late.
  static constexpr int kAhead = 3;
  SGDR_HOST_DEVICE static void prefetch_operands(const Span<Scalars>& span) {
    const Tensor& tensor = *span.tensor;
    const int64_t bytes = (tensor.numel < 64 ? tensor.numel : 64) * sizeof(T);
    prefetch(tensor.param, bytes);
    prefetch(span.item->grad, bytes);
    for (int k = 0; k < kStates; ++k) prefetch(tensor.states[k], bytes);
  }

  SGDR_HOST_DEVICE static void update(const Span<Scalars>& span, const Share& share,
                                      const Rule& rule) {
    const Tensor& tensor = *span.tensor;
    const int64_t begin = begin_of(span, share);
    T* states[kMaxStates] = {};
    for (int k = 0; k < kStates; ++k) states[k] = static_cast<T*>(tensor.states[k]) + begin;
    UpdateLoop<Rule, T, kStates>::run(rule, static_cast<T*>(tensor.param) + begin,
                                      static_cast<const T*>(span.item->grad) + begin, states,
                                      end_of(span, share) - begin);
  }

  // Elements that are treated, updated and averaged at a time. So few that the processor, which
  // runs some hundred instructions ahead, asks for the next loop's memory while this one's is on
  // its way.
  static constexpr int64_t kStrip = 128;
  static_assert(kStrip <= kBlock);

  SGDR_HOST_DEVICE static void update_with_extras(const Span<Scalars>& span, const Share& share,
                                                  const Rule& rule, const Treatment<T>& treatment,
                                                  const AverageRule<T>& average_rule, T* average) {
    const Tensor& tensor = *span.tensor;
    T* const param = static_cast<T*>(tensor.param);
    T* const grad = static_cast<T*>(span.item->grad);
    const int64_t end = end_of(span, share);
    for (int64_t begin = begin_of(span, share); begin < end; begin += kStrip) {
      const int64_t count = end - begin < kStrip ? end - begin : kStrip;
      T* states[kMaxStates] = {};
      for (int k = 0; k < kStates; ++k) states[k] = static_cast<T*>(tensor.states[k]) + begin;
      TreatedLoop<Rule, T, kStates>::run(rule, treatment, param + begin, grad + begin, states,
                                         count);
      if (average != nullptr) {
        AverageLoop<T>::run(average_rule, average + begin, param + begin, count);
      }
    }
  }

  SGDR_HOST_DEVICE static void run(const Span<Scalars>* span, const Span<Scalars>* last,
                                   Share share, const Treatment<T>& treatment,
                                   double average_weight) {
    const AverageRule<T> average_rule(average_weight);
    const bool has_extras = treatment.unscales || treatment.clips || average_weight != 0.0;
    while (span != last) {
      const Scalars* scalars = span->scalars;
      const Rule rule(*scalars);
      for (; span != last && span->scalars == scalars; ++span) {
        if (last - span > kAhead) prefetch_operands(span[kAhead]);
        if (has_extras) {
          void* const average = average_weight != 0.0 ? span->tensor->average : nullptr;
          update_with_extras(*span, share, rule, treatment, average_rule, static_cast<T*>(average));
        } else {
          update(*span, share, rule);
        }
      }
    }
  }
};

// What can be done to a tensor's elements.
template <class Algorithm>
struct Kernels {
  using Scalars = typename Algorithm::Scalars;
  // Dense operands in the type of the arithmetic.
  void (*update_in_place)(const Span<Scalars>* first, const Span<Scalars>* last, Share share,
                          const Extras& extras);
  void (*update_in_blocks)(const Span<Scalars>& span, Share share, const Extras& extras);
};

template <class Algorithm, class T, int kStates>
void update_in_place(const Span<typename Algorithm::Scalars>* first,
                     const Span<typename Algorithm::Scalars>* last, Share share,
                     const Extras& extras) {
  const Treatment<T> treatment(extras.grad_scale, extras.clip);
  run<SpansLoop<Algorithm, T, kStates>>(first, last, share, treatment, extras.average_weight);
}

// Each operand has its own type and order; the arithmetic is done in T.
template <class Algorithm, class T, int kStates>
void update_in_blocks(const Span<typename Algorithm::Scalars>& span, Share share,
                      const Extras& extras) {
  using Rule = typename Algorithm::template Rule<T, kStates>;
  const Rule rule(*span.scalars);
  const Treatment<T> treatment(extras.grad_scale, extras.clip);
  const AverageRule<T> average_rule(extras.average_weight);
  const Tensor& tensor = *span.tensor;
  const Plan& plan = *extras.plan;
  const DtypePair dtypes = span.item->dtypes;
  const Layout* layout = tensor.layout < 0 ? nullptr : plan.layouts + tensor.layout;
  const Lot lots = {plan.seed, *plan.clock, tensor.number};
  const Lot* lot = plan.rounds_by_lot ? &lots : nullptr;
  const Memory param = {tensor.param, dtypes.param, layout, kParam, tensor.remainder, lot};
  const Memory grad = {span.item->grad, tensor.grad_dtype, layout, kGrad, nullptr, nullptr};
  const Memory average = {tensor.average, kDtypeOf<T>, layout, kAverage, nullptr, nullptr};
  Memory states[kMaxStates];
  for (int k = 0; k < kStates; ++k) {
    states[k] = {tensor.states[k], dtypes.state, layout, kFirstState + k, nullptr, lot};
  }
  const bool averages = extras.average_weight != 0.0 && tensor.average != nullptr;

  alignas(64) T scratch[2 + kMaxStates][kBlock];
  const int64_t end = end_of(span, share);
  for (int64_t begin = begin_of(span, share); begin < end; begin += kBlock) {
    const int64_t count = std::min(kBlock, end - begin);
    T* p = fetch(param, begin, count, scratch[0]);
    if (grad.data != nullptr) {
      T* g = fetch(grad, begin, count, scratch[1]);
      T* s[kMaxStates] = {};
      for (int k = 0; k < kStates; ++k) s[k] = fetch(states[k], begin, count, scratch[2 + k]);
      run<TreatedLoop<Rule, T, kStates>>(rule, treatment, p, g, s, count);
      if (treatment.unscales) put_back(grad, begin, count, g);
      put_back(param, begin, count, p);
      for (int k = 0; k < kStates; ++k) put_back(states[k], begin, count, s[k]);
    }
    if (averages) {
      p = fetch(param, begin, count, p);  // as it is stored
      T* a = fetch(average, begin, count, scratch[1]);
      run<AverageLoop<T>>(average_rule, a, p, count);
      put_back(average, begin, count, a);
    }
  }
}

// From the number of states to its compile-time value.
template <class Algorithm, class T, int kStates = Algorithm::kMaxStates>
Kernels<Algorithm> choose_states(int num_states) {
  if constexpr (kStates > Algorithm::kMinStates) {
    if (num_states < kStates) return choose_states<Algorithm, T, kStates - 1>(num_states);
  }
  return {update_in_place<Algorithm, T, kStates>, update_in_blocks<Algorithm, T, kStates>};
}

template <class Algorithm>
Kernels<Algorithm> choose(Dtype param, int num_states) {
  return param == Dtype::kFloat64 ? choose_states<Algorithm, double>(num_states)
                                  : choose_states<Algorithm, float>(num_states);
}

}  // namespace sgdr_fused::cpu
