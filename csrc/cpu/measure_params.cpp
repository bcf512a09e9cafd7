// What is measured of each parameter on the CPU: the squares of its elements and of its direction.
// No torch.
#include <algorithm>

#include "cpu/chunks.h"
#include "cpu/gradients.h"
#include "cpu/hypers.h"
#include "step/clipping.h"

namespace sgdr_fused::cpu {
namespace {

// Elements that are measured at a time: so few that their squares, in double, lie in the
// first-level cache too.
constexpr int64_t kMeasured = kBlock / 2;
static_assert(2 * kPairSums % kMeasured == 0);

// The squares of elements of which all operands are in T.
template <class Rule, class T, int kStates>
struct SquaresLoop {
  SGDR_HOST_DEVICE static void run(const Rule& rule, const T* param, const T* grad,
                                   T* const* states, int64_t count, double* of_param,
                                   double* of_direction) {
    const T* state0 = states[0];
    const T* state1 = states[1];
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      T s[2] = {};
      if constexpr (kStates > 0) s[0] = state0[i];
      if constexpr (kStates > 1) s[1] = state1[i];
      const double p = param[i], d = rule.direction(param[i], grad[i], s);
      of_param[i] = p * p;
      of_direction[i] = d * d;
    }
  }
};

struct PairsLoop {
  SGDR_HOST_DEVICE static void run(double* partial_sums, const double* squares, int64_t pairs) {
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < pairs; ++i) partial_sums[i] += squares[2 * i] + squares[2 * i + 1];
  }
};

template <class Algorithm, class T>
Squares measure_chunk(const Step& step, const Item& item, const Chunk& chunk,
                      const typename Algorithm::Scalars& scalars, GradChanges changes,
                      const GradFactors<double>& factors_in_double) {
  constexpr int kStates = Algorithm::kMeasuredStates;
  static_assert(kStates <= 2);
  using Rule = typename Algorithm::template Rule<T, kStates>;
  const Rule rule(scalars);
  const GradFactors<T> factors = factors_in<T>(factors_in_double);
  const Tensor& tensor = step.plan.tensors[chunk.tensor];
  const Layout* layout = tensor.layout < 0 ? nullptr : step.plan.layouts + tensor.layout;
  const OperandIO param = {tensor.param, item.types.param, layout,
                           kParam,       tensor.remainder, nullptr};
  const OperandIO grad = {item.grad, tensor.grad_dtype, layout, kGrad, nullptr, nullptr};
  const int64_t begin = first_element(chunk), size = num_elements(chunk, tensor);

  PartialSums<kPairSums> of_param((size + 1) / 2), of_direction((size + 1) / 2);
  alignas(64) T scratch[4][kMeasured];
  alignas(64) double squares[2][kMeasured];
  for (int64_t done = 0; done < size; done += kMeasured) {
    const int64_t count = std::min(kMeasured, size - done), first = begin + done;
    const T* p = fetch(param, first, count, scratch[0]);
    const T* g = fetch(grad, first, count, scratch[1]);
    if (changes.unscales) {
      run<UnscaleLoop<T>>(factors, scratch[1], g, count);
      g = scratch[1];
    }
    if (changes.clips) {
      run<ClipLoop<T>>(factors, scratch[1], g, count);
      g = scratch[1];
    }
    T* states[2] = {};
    for (int k = 0; k < kStates; ++k) {
      const OperandIO state = {
          tensor.states[k], item.types.states[k], layout, kFirstState + k, nullptr, nullptr};
      states[k] = fetch(state, first, count, scratch[2 + k]);
    }
    run<SquaresLoop<Rule, T, kStates>>(rule, p, g, states, count, squares[0], squares[1]);
    if (count % 2 != 0) squares[0][count] = squares[1][count] = 0.0;
    run<PairsLoop>(of_param.of(done / 2), squares[0], (count + 1) / 2);
    run<PairsLoop>(of_direction.of(done / 2), squares[1], (count + 1) / 2);
  }
  return {of_param.total(), of_direction.total()};
}

Squares add_up(const Squares* chunks, int64_t count) {
  if (count == 1) return chunks[0];
  PartialSums<kPairSums> of_param(count), of_direction(count);
  for (int64_t i = 0; i < count; ++i) {
    *of_param.of(i) += chunks[i].param;
    *of_direction.of(i) += chunks[i].direction;
  }
  return {of_param.total(), of_direction.total()};
}

template <class Algorithm>
void measure_all(const Step& step, const Threads& threads) {
  const PlanView& plan = step.plan;
  const ParamNorms& norms = plan.param_norms;
  const GradChanges changes = grad_changes(plan.clipping, step.grad_scale);
  const auto factors = grad_factors<double>(plan.clipping, step.grad_scale);
  const auto hypers = hypers_of_groups(step);
  // What takes no part adds nothing: another process may have a part of it that does.
  std::fill_n(norms.chunks, step.num_chunks, Squares{});
  for_chunks(
      step, threads,
      [&](const Item& item) {
        return Algorithm::measures(plan.groups[plan.tensors[item.tensor].group].constants);
      },
      [&](const Item& item, int64_t i) {
        const Tensor& tensor = plan.tensors[item.tensor];
        const auto scalars =
            Algorithm::scalars(hypers[tensor.group].data(), plan.groups[tensor.group].constants,
                               param_stats_of<Algorithm>(plan, tensor, item.tensor));
        const auto measure = item.types.param == Dtype::kFloat64 ? measure_chunk<Algorithm, double>
                                                                 : measure_chunk<Algorithm, float>;
        norms.chunks[i] = measure(step, item, step.chunks[i], scalars, changes, factors);
      });
  for (int64_t i = 0; i < step.num_chunks;) {
    const int32_t tensor = step.chunks[i].tensor;
    const int64_t count = num_chunks(plan.tensors[tensor]);
    norms.tensors[tensor] = add_up(norms.chunks + i, count);
    i += count;
  }
}

template <class Algorithm>
void measure_if_asked(const Step& step, const Threads& threads) {
  if constexpr (kMeasures<Algorithm>) measure_all<Algorithm>(step, threads);
}

template <class... Algorithms>
void dispatch(AlgorithmList<Algorithms...>, int algorithm, const Step& step,
              const Threads& threads) {
  int index = 0;
  ((index++ == algorithm ? measure_if_asked<Algorithms>(step, threads) : void()), ...);
}

}  // namespace

void measure_params(int algorithm, const Step& step, const Threads& threads) {
  if (skips(step.plan.clipping, step.found_inf)) return;
  dispatch(AllAlgorithms{}, algorithm, step, threads);
}

}  // namespace sgdr_fused::cpu
