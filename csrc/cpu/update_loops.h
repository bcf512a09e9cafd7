// The loops that update a tensor's elements on the CPU: in place, or block by block.
#pragma once

#include <algorithm>

#include "cpu/gradients.h"
#include "cpu/instruction_set.h"
#include "cpu/operand_io.h"
#include "math/prefetch.h"
#include "step/fused_step.h"

namespace sgdr_fused::cpu {

// A tensor that takes part in a step, with its algorithm's scalars.
template <class Scalars>
struct Span {
  const Item* item;
  const Tensor* tensor;
  const Scalars* scalars;
  int64_t first_unit;  // where it begins when all are laid end to end
};

// What a thread takes at a time of all units, which hold kUnit elements each.
struct UnitRange {
  int64_t first, last;
};

template <class Scalars>
SGDR_HOST_DEVICE int64_t begin_of(const Span<Scalars>& span, const UnitRange& units) {
  return units.first > span.first_unit ? (units.first - span.first_unit) * kUnit : 0;
}
template <class Scalars>
SGDR_HOST_DEVICE int64_t end_of(const Span<Scalars>& span, const UnitRange& units) {
  const int64_t end = (units.last - span.first_unit) * kUnit;
  return end < span.tensor->numel ? end : span.tensor->numel;
}

// What a step does beside the update itself.
struct StepOptions {
  GradChanges changes;
  GradFactors<double> factors;
  double average_weight;  // 0: averages stay as they are
  const PlanView* plan;   // its layouts, and its random rounding
};

// The loop over elements whose operands are all in T. Operands never overlap: Python has checked
// that before the plan was made, and the scratch memory is our own.
template <class Rule, class T, int kStates>
struct UpdateLoop {
  // The loop stands here twice, and in the first the compiler knows that each of these conditions
  // holds.
  SGDR_HOST_DEVICE static void run(const Rule& rule, T* param, const T* grad, T* const* states,
                                   int64_t count) {
    if (rule.usual()) {
      update(rule, param, grad, states, count);
    } else {
      update(rule, param, grad, states, count);
    }
  }

 private:
  SGDR_HOST_DEVICE static void update(const Rule& rule, T* param, const T* grad, T* const* states,
                                      int64_t count) {
    T* state0 = states[0];
    T* state1 = states[1];
    T* state2 = states[2];
    SGDR_INDEPENDENT
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
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) average[i] = rule(average[i], param[i]);
  }
};

// The update by gradients that are changed before it. Where they are clipped, there are at most
// kBlock elements.
template <class Rule, class T, int kStates>
struct ChangedGradLoop {
  SGDR_HOST_DEVICE static void run(const Rule& rule, GradChanges changes,
                                   const GradFactors<T>& factors, T* param, T* grad,
                                   T* const* states, int64_t count) {
    alignas(64) T clipped[kBlock];
    if (changes.unscales) UnscaleLoop<T>::run(factors, grad, grad, count);
    if (changes.clips) {
      ClipLoop<T>::run(factors, clipped, grad, count);
      grad = clipped;
    }
    UpdateLoop<Rule, T, kStates>::run(rule, param, grad, states, count);
  }
};

// The update of many tensors by one call: that of a small one takes no longer than it takes to
// choose its loop and to convert its scalars, which neighbours have in common.
template <class Algorithm, class T, int kStates>
struct SpansLoop {
  using Scalars = typename Algorithm::Scalars;
  using Rule = typename Algorithm::template Rule<T, kStates>;

  // Asks for the first cache lines of a tensor that is to come. The processor's own prefetching
  // sets in a few lines later, which is too late for a small tensor.
  static constexpr int kPrefetchDistance = 3;
  SGDR_HOST_DEVICE static void prefetch_operands(const Span<Scalars>& span) {
    const Tensor& tensor = *span.tensor;
    const int64_t bytes = (tensor.numel < 64 ? tensor.numel : 64) * sizeof(T);
    prefetch(tensor.param, bytes);
    prefetch(span.item->grad, bytes);
    for (int k = 0; k < kStates; ++k) prefetch(tensor.states[k], bytes);
  }

  SGDR_HOST_DEVICE static void update(const Span<Scalars>& span, const UnitRange& units,
                                      const Rule& rule) {
    const Tensor& tensor = *span.tensor;
    const int64_t begin = begin_of(span, units);
    T* states[kMaxStates] = {};
    for (int k = 0; k < kStates; ++k) states[k] = static_cast<T*>(tensor.states[k]) + begin;
    UpdateLoop<Rule, T, kStates>::run(rule, static_cast<T*>(tensor.param) + begin,
                                      static_cast<const T*>(span.item->grad) + begin, states,
                                      end_of(span, units) - begin);
  }

  // The number of elements that each loop (unscaling, clipping, update, average) takes at a time.
  // It is so small that the processor, which runs some hundred instructions ahead, asks for the
  // next loop's memory while this one's is on its way.
  static constexpr int64_t kStrip = 128;
  static_assert(kStrip <= kBlock);

  SGDR_HOST_DEVICE static void update_with_options(const Span<Scalars>& span,
                                                   const UnitRange& units, const Rule& rule,
                                                   GradChanges changes,
                                                   const GradFactors<T>& factors,
                                                   const AverageRule<T>& average_rule, T* average) {
    const Tensor& tensor = *span.tensor;
    T* const param = static_cast<T*>(tensor.param);
    T* const grad = static_cast<T*>(span.item->grad);
    const int64_t end = end_of(span, units);
    for (int64_t begin = begin_of(span, units); begin < end; begin += kStrip) {
      const int64_t count = end - begin < kStrip ? end - begin : kStrip;
      T* states[kMaxStates] = {};
      for (int k = 0; k < kStates; ++k) states[k] = static_cast<T*>(tensor.states[k]) + begin;
      cpu::run<ChangedGradLoop<Rule, T, kStates>>(rule, changes, factors, param + begin,
                                                  grad + begin, states, count);
      if (average != nullptr) {
        cpu::run<AverageLoop<T>>(average_rule, average + begin, param + begin, count);
      }
    }
  }

  SGDR_HOST_DEVICE static void run(const Span<Scalars>* span, const Span<Scalars>* last,
                                   UnitRange units, GradChanges changes,
                                   const GradFactors<T>& factors, double average_weight) {
    const AverageRule<T> average_rule(average_weight);
    const bool has_options = changes.unscales || changes.clips || average_weight != 0.0;
    while (span != last) {
      const Scalars* scalars = span->scalars;
      const Rule rule(*scalars);
      for (; span != last && span->scalars == scalars; ++span) {
        if (last - span > kPrefetchDistance) prefetch_operands(span[kPrefetchDistance]);
        if (has_options) {
          void* const average = average_weight != 0.0 ? span->tensor->average : nullptr;
          update_with_options(*span, units, rule, changes, factors, average_rule,
                              static_cast<T*>(average));
        } else {
          update(*span, units, rule);
        }
      }
    }
  }
};

// The two ways to update a tensor's elements.
template <class Algorithm>
struct Kernels {
  using Scalars = typename Algorithm::Scalars;
  // Dense operands in the type of the arithmetic.
  void (*update_in_place)(const Span<Scalars>* first, const Span<Scalars>* last, UnitRange units,
                          const StepOptions& options);
  void (*update_in_blocks)(const Span<Scalars>& span, UnitRange units, const StepOptions& options);
};

template <class Algorithm, class T, int kStates>
void update_in_place(const Span<typename Algorithm::Scalars>* first,
                     const Span<typename Algorithm::Scalars>* last, UnitRange units,
                     const StepOptions& options) {
  const GradFactors<T> factors = factors_in<T>(options.factors);
  run<SpansLoop<Algorithm, T, kStates>>(first, last, units, options.changes, factors,
                                        options.average_weight);
}

// Each operand has its own type and order; the arithmetic is done in T.
template <class Algorithm, class T, int kStates>
void update_in_blocks(const Span<typename Algorithm::Scalars>& span, UnitRange units,
                      const StepOptions& options) {
  using Rule = typename Algorithm::template Rule<T, kStates>;
  const Rule rule(*span.scalars);
  const GradChanges changes = options.changes;
  const GradFactors<T> factors = factors_in<T>(options.factors);
  const AverageRule<T> average_rule(options.average_weight);
  const Tensor& tensor = *span.tensor;
  const PlanView& plan = *options.plan;
  const StorageTypes& types = span.item->types;
  const Layout* layout = tensor.layout < 0 ? nullptr : plan.layouts + tensor.layout;
  const RandomRounding random = {plan.seed, *plan.clock, tensor.index};
  const RandomRounding* rounding = plan.rounds_randomly ? &random : nullptr;
  const OperandIO param = {tensor.param, types.param, layout, kParam, tensor.remainder, rounding};
  const OperandIO grad = {span.item->grad, tensor.grad_dtype, layout, kGrad, nullptr, nullptr};
  const OperandIO average = {tensor.average, kDtypeOf<T>, layout, kAverage, nullptr, nullptr};
  OperandIO states[kMaxStates];
  for (int k = 0; k < kStates; ++k) {
    states[k] = {tensor.states[k], types.states[k], layout, kFirstState + k, nullptr, rounding};
  }
  const bool averages = options.average_weight != 0.0 && tensor.average != nullptr;

  alignas(64) T scratch[2 + kMaxStates][kBlock];
  const int64_t end = end_of(span, units);
  for (int64_t begin = begin_of(span, units); begin < end; begin += kBlock) {
    const int64_t count = std::min(kBlock, end - begin);
    T* p = fetch(param, begin, count, scratch[0]);
    if (grad.data != nullptr) {
      T* g = fetch(grad, begin, count, scratch[1]);
      T* s[kMaxStates] = {};
      for (int k = 0; k < kStates; ++k) s[k] = fetch(states[k], begin, count, scratch[2 + k]);
      run<ChangedGradLoop<Rule, T, kStates>>(rule, changes, factors, p, g, s, count);
      if (changes.unscales) put_back(grad, begin, count, g);
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
