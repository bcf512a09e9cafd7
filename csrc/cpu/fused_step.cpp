// A step on the CPU: shares of all tensors' elements, and the loops over them. No torch.
#include "../fused_step.h"

#include <algorithm>
#include <type_traits>

#include "../clipping.h"
#include "gradients.h"
#include "hypers.h"
#include "instruction_set.h"
#include "memory.h"

namespace sgdr_fused::cpu {
namespace {

// Ranges of different threads meet at multiples of this many elements, so that no two threads
// write to one cache line of the same tensor.
constexpr int64_t kUnit = 64;

// Fewer elements than this per thread take a few microseconds, as starting a team of threads does.
constexpr int64_t kGrain = 32768;

// Elements [begin, end) of one tensor; `scalars` is its algorithm's.
template <class Scalars>
struct Piece {
  const Tensor* tensor;
  const Layout* layout;  // null: dense
  DtypePair dtypes;
  const Scalars* scalars;
  void* grad;               // null: there is none
  const float* grad_scale;  // null: the gradient is as it should be
  const Clip* clip;         // null: nothing
  double average_weight;    // 0: the average stays as it is
  const Lot* lot;           // how BFloat16 is rounded; null: to the nearest
  int64_t begin, end;
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

// Each operand has its own type and order; the arithmetic is done in T, in place where that is
// possible. The gradient is written only where it is unscaled, as torch's fused optimizers do.
template <class Algorithm, class T, int kStates>
void update_piece(const Piece<typename Algorithm::Scalars>& piece) {
  using Rule = typename Algorithm::template Rule<T, kStates>;
  const Rule rule(*piece.scalars);
  const AverageRule<T> average_rule(piece.average_weight);
  const Tensor& tensor = *piece.tensor;
  const Dtype dtype = piece.dtypes.param;
  const Layout* layout = piece.layout;
  const Memory param = {tensor.param, dtype, layout, kParam, tensor.remainder, piece.lot};
  const Memory grad = {piece.grad, dtype, layout, kGrad, nullptr, nullptr};
  const Memory average = {tensor.average, kDtypeOf<T>, layout, kAverage, nullptr, nullptr};
  Memory states[kMaxStates];
  for (int k = 0; k < kStates; ++k) {
    states[k] = {tensor.states[k], piece.dtypes.state, layout, kFirstState + k, nullptr, piece.lot};
  }
  const bool averages = piece.average_weight != 0.0 && tensor.average != nullptr;
  const bool at_once = in_place<T>(param) && (kStates == 0 || in_place<T>(states[0])) &&
                       piece.grad_scale == nullptr && piece.clip == nullptr && !averages;

  alignas(64) T scratch[2 + kMaxStates][kBlock];
  const int64_t block = at_once ? piece.end - piece.begin : kBlock;
  for (int64_t begin = piece.begin; begin < piece.end; begin += block) {
    const int64_t count = std::min(block, piece.end - begin);
    T* p = fetch(param, begin, count, scratch[0]);
    if (piece.grad != nullptr) {
      T* g = fetch(grad, begin, count, scratch[1]);
      if (piece.grad_scale != nullptr) {
        unscale<T>(g, g, piece.grad_scale, count);
        put_back(grad, begin, count, g);
      }
      if (piece.clip != nullptr) {  // for the update alone, not in place
        clip_elements<T>(scratch[1], g, *piece.clip, count);
        g = scratch[1];
      }
      T* s[kMaxStates] = {};
      for (int k = 0; k < kStates; ++k) s[k] = fetch(states[k], begin, count, scratch[2 + k]);
      run<UpdateLoop<Rule, T, kStates>>(rule, p, g, s, count);
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

template <class Algorithm>
using PieceFunction = void (*)(const Piece<typename Algorithm::Scalars>&);

// From the number of states to its compile-time value.
template <class Algorithm, class T, int kStates = Algorithm::kMaxStates>
PieceFunction<Algorithm> choose_states(int num_states) {
  if constexpr (kStates > Algorithm::kMinStates) {
    if (num_states < kStates) return choose_states<Algorithm, T, kStates - 1>(num_states);
  }
  return update_piece<Algorithm, T, kStates>;
}

template <class Algorithm>
PieceFunction<Algorithm> choose(Dtype param, int num_states) {
  return param == Dtype::kFloat64 ? choose_states<Algorithm, double>(num_states)
                                  : choose_states<Algorithm, float>(num_states);
}

// What a step adds to an Item.
template <class Scalars>
struct Span {
  const Scalars* scalars;
  int64_t first_unit;  // where the tensor begins when all are laid end to end
};

template <class Algorithm>
void update_all(const Step& step, const Clip* clip, ParallelFor parallel_for) {
  using Scalars = typename Algorithm::Scalars;
  const Plan& plan = step.plan;
  const int64_t clock = *plan.clock;

  const auto hypers = hypers_of_groups(step);

  std::vector<Scalars> scalars;
  scalars.reserve(step.items.size());  // the pieces point into it
  std::vector<Span<Scalars>> spans;
  spans.reserve(step.items.size());
  int64_t units = 0;
  int32_t last_group = -1;
  Known last_known = {};
  for (const Item& item : step.items) {
    const Tensor& tensor = plan.tensors[item.tensor];
    const double* of_group = hypers[tensor.group].data();
    const double* constants = plan.groups[tensor.group].constants;
    const Known known = known_of<Algorithm>(plan, tensor, item.tensor);
    if (item.grad != nullptr) apply(advance_of<Algorithm>(tensor, of_group, constants), tensor);
    // Neighbours nearly always agree, and the powers in a bias correction cost more than a small
    // tensor's update.
    if (tensor.group != last_group || !(known == last_known)) {
      scalars.push_back(Algorithm::scalars(of_group, constants, known));
      last_group = tensor.group;
      last_known = known;
    }
    spans.push_back({&scalars.back(), units});
    units += (tensor.numel + kUnit - 1) / kUnit;
  }

  parallel_for(units, kGrain / kUnit, [&](int64_t first, int64_t last) {
    const auto after = std::upper_bound(
        spans.begin(), spans.end(), first,
        [](int64_t unit, const Span<Scalars>& span) { return unit < span.first_unit; });
    for (size_t i = after - spans.begin() - 1; i < spans.size(); ++i) {
      const Span<Scalars>& span = spans[i];
      if (span.first_unit >= last) break;
      const Item& item = step.items[i];
      const Tensor& tensor = plan.tensors[item.tensor];
      const Layout* layout = tensor.layout < 0 ? nullptr : plan.layouts + tensor.layout;
      const int64_t begin = std::max<int64_t>(0, first - span.first_unit) * kUnit;
      const int64_t end = std::min(tensor.numel, (last - span.first_unit) * kUnit);
      if (begin >= end) continue;
      const Lot lot = {plan.seed, clock, tensor.index};
      choose<Algorithm>(item.dtypes.param, tensor.num_states)(
          {&tensor, layout, item.dtypes, span.scalars, item.grad, step.grad_scale, clip,
           step.average_weight, plan.rounds_by_lot ? &lot : nullptr, begin, end});
    }
  });
}

template <class... Algorithms>
void dispatch(AlgorithmList<Algorithms...>, int algorithm, const Step& step, const Clip* clip,
              ParallelFor parallel_for) {
  int index = 0;
  ((index++ == algorithm ? update_all<Algorithms>(step, clip, parallel_for) : void()), ...);
}

}  // namespace

bool step(int algorithm, const Step& step, ParallelFor parallel_for) {
  const Clipping& clipping = step.plan.clipping;
  if (skips(clipping, step.found_inf)) return false;
  const Clip clip = clip_of(clipping);
  dispatch(AllAlgorithms{}, algorithm, step, clipping.is_on ? &clip : nullptr, parallel_for);
  if (step.average_weight != 0.0) ++*step.plan.average.count;
  const int64_t clock = ++*step.plan.clock;
  for (int32_t i = 0; i < step.plan.num_displays; ++i) {
    show(step.plan, step.plan.displays[i], clock);
  }
  return true;
}

double average_weight(const Plan& plan) {
  const Average& average = plan.average;
  return sgdr_fused::average_weight(average,
                                    hyper_value(plan, average.weight, average.number, *plan.clock));
}

}  // namespace sgdr_fused::cpu
