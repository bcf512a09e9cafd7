// The update of all elements by one algorithm, distributed among threads. It is compiled for a few
// algorithms at a time, side by side: update_0.cpp and its neighbours.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/hypers.h"
#include "cpu/threads.h"
#include "cpu/update_loops.h"
#include "step/clipping.h"
#include "step/fused_step.h"

namespace sgdr_fused::cpu {

// Fewer elements than this per thread take a few microseconds, as starting a team of threads does.
constexpr int64_t kGrain = 32768;
// The elements that a thread takes at a time: these take a few microseconds too.
constexpr int64_t kAtATime = 16384;

// Whether a tensor is updated, and its operands are dense and in the type of the arithmetic.
template <class Scalars>
bool in_place(const Span<Scalars>& span) {
  const StorageTypes& types = span.item->types;
  return span.item->grad != nullptr && span.tensor->layout < 0 && types.all_like_param() &&
         types.param == span.tensor->grad_dtype &&
         (types.param == Dtype::kFloat32 || types.param == Dtype::kFloat64);
}

template <class Scalars>
bool same_kernels(const Span<Scalars>& a, const Span<Scalars>& b) {
  return a.item->types.param == b.item->types.param && a.tensor->num_states == b.tensor->num_states;
}

// Updates the units that one thread takes. [first, last) are the spans that are in them, at least
// in part.
template <class Algorithm, class Scalars = typename Algorithm::Scalars>
void update_units(const Span<Scalars>* first, const Span<Scalars>* last, UnitRange units,
                  const StepOptions& options) {
  while (first != last) {
    const auto kernels = choose<Algorithm>(first->item->types.param, first->tensor->num_states);
    if (!in_place(*first)) {
      kernels.update_in_blocks(*first++, units, options);
      continue;
    }
    const Span<Scalars>* next = first + 1;
    while (next != last && in_place(*next) && same_kernels(*first, *next)) ++next;
    kernels.update_in_place(first, next, units, options);
    first = next;
  }
}

// Makes the spans of all items, and lets each tensor count this step.
template <class Algorithm, class Scalars = typename Algorithm::Scalars>
int64_t make_spans(const Step& step, std::vector<Scalars>& scalars,
                   std::vector<Span<Scalars>>& spans) {
  const PlanView& plan = step.plan;
  const auto hypers = hypers_of_groups(step);
  scalars.reserve(step.items.size());  // the spans point into it
  spans.reserve(step.items.size());
  int64_t units = 0;
  int32_t last_group = -1;
  ParamStats last_stats = {};
  for (const Item& item : step.items) {
    const Tensor& tensor = plan.tensors[item.tensor];
    const double* of_group = hypers[tensor.group].data();
    const double* constants = plan.groups[tensor.group].constants;
    const ParamStats stats = param_stats_of<Algorithm>(plan, tensor, item.tensor);
    if (item.grad != nullptr)
      apply(step_count_update<Algorithm>(tensor, of_group, constants), tensor);
    // Neighbours nearly always agree, and the powers in a bias correction cost more than a small
    // tensor's update.
    if (tensor.group != last_group || !(stats == last_stats)) {
      scalars.push_back(Algorithm::scalars(of_group, constants, stats));
      last_group = tensor.group;
      last_stats = stats;
    }
    spans.push_back({&item, &tensor, &scalars.back(), units});
    units += (tensor.numel + kUnit - 1) / kUnit;
  }
  return units;
}

template <class Algorithm>
void update_all(const Step& step, const Threads& threads) {
  using Scalars = typename Algorithm::Scalars;
  std::vector<Scalars> scalars;
  std::vector<Span<Scalars>> spans;
  const int64_t units = make_spans<Algorithm>(step, scalars, spans);
  const Clipping& clipping = step.plan.clipping;
  const StepOptions options = {grad_changes(clipping, step.grad_scale),
                               grad_factors<double>(clipping, step.grad_scale), step.average_weight,
                               &step.plan};
  distribute(units, kGrain / kUnit, kAtATime / kUnit, threads, [&](int64_t first, int64_t last) {
    const Span<Scalars>* const all = spans.data();
    const Span<Scalars>* const end = std::lower_bound(
        all, all + spans.size(), last,
        [](const Span<Scalars>& span, int64_t unit) { return span.first_unit < unit; });
    const Span<Scalars>* const after = std::upper_bound(
        all, end, first,
        [](int64_t unit, const Span<Scalars>& span) { return unit < span.first_unit; });
    update_units<Algorithm>(after - 1, end, {first, last}, options);
  });
}

// Updates by those of all algorithms that have the numbers kPart, kPart + kParts, ...; for the
// others it does nothing.
constexpr int kParts = 3;

template <int kPart, class Algorithm, size_t kIndex>
void update_if(int algorithm, const Step& step, const Threads& threads) {
  if constexpr (kIndex % kParts == kPart) {
    if (algorithm == static_cast<int>(kIndex)) update_all<Algorithm>(step, threads);
  }
}

template <int kPart, class... Algorithms, size_t... kIndices>
void update_if_in_part(AlgorithmList<Algorithms...>, std::index_sequence<kIndices...>,
                       int algorithm, const Step& step, const Threads& threads) {
  (update_if<kPart, Algorithms, kIndices>(algorithm, step, threads), ...);
}

template <class... Algorithms>
constexpr std::index_sequence_for<Algorithms...> indices_of(AlgorithmList<Algorithms...>) {
  return {};
}

template <int kPart>
void update_part(int algorithm, const Step& step, const Threads& threads) {
  constexpr AllAlgorithms all;
  update_if_in_part<kPart>(all, indices_of(all), algorithm, step, threads);
}

extern template void update_part<0>(int, const Step&, const Threads&);
extern template void update_part<1>(int, const Step&, const Threads&);
extern template void update_part<2>(int, const Step&, const Threads&);

}  // namespace sgdr_fused::cpu
