// The update rules: one struct per algorithm, in rules/. The only place for update math.
//
// An algorithm has
//   kName                    what its Python class calls it
//   kMinStates, kMaxStates   how many state tensors a parameter may have
//   Scalars, scalars()       what a step needs per parameter, computed once, in double
//   Rule<T, kStates>         the update of one element, in T: called with the parameter, its
//                            gradient (unscaled) and its states
// and, where Defaults has not what it needs,
//   counts()                 whether a step with these values is one that ParamStats::steps counts
//   factor()                 by what such a step, given its number, multiplies ParamStats::product
//   kMeasuredStates          an algorithm with a rate of each parameter's own: how many states
//                            Rule::direction() takes, of which ParamStats::squares are; else -1
//   measures()               whether a group with these constants has such rates
// hypers[] are the values of this step (number, tensor or schedule), constants[] those that only a
// new plan changes; the enums name the entries, in the order in which the Python class lists them.
#pragma once

#include "rules/adaptive.h"
#include "rules/base.h"
#include "rules/moments.h"
#include "rules/momentum.h"

namespace sgdr_fused {

// The running average of a parameter, after any of the rules.
template <class T>
struct AverageRule {
  T weight, one_minus_weight;

  SGDR_HOST_DEVICE explicit AverageRule(double w)
      : weight(static_cast<T>(w)), one_minus_weight(static_cast<T>(1.0 - w)) {}

  SGDR_HOST_DEVICE T operator()(T average, T param) const {
    return interpolate(average, param, weight, one_minus_weight);
  }
};

template <class Algorithm>
constexpr bool kMeasures = Algorithm::kMeasuredStates >= 0;

template <class... Algorithms>
struct AlgorithmList {};

// Everything that is instantiated or looked up per algorithm goes through this list.
using AllAlgorithms =
    AlgorithmList<Sgd, Lars, Adam, NAdam, Adamax, Lamb, Adagrad, RMSprop, Adadelta>;

}  // namespace sgdr_fused
