// The update rules: one struct per algorithm, in rules/. The only place for update math.
//
// An algorithm has
//   kName                    what its Python class calls it
//   kMinStates, kMaxStates   how many state tensors a parameter may have
//   Scalars, scalars()       what a step needs per parameter, computed once, in double
//   Rule<T, kStates>         the update of one element, in T: called with the parameter, its
//                            gradient (unscaled) and its states
// and, where Defaults has not what it needs,
//   counts()                 whether a step with these values is one that Known::steps counts
//   factor()                 by what such a step multiplies Known::product; given its number, from
//   1
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

template <class... Algorithms>
struct AlgorithmList {};

// Everything that is instantiated or looked up per algorithm goes through this list.
using AllAlgorithms = AlgorithmList<Sgd, Adam, NAdam, Adamax, Adagrad, RMSprop, Adadelta>;

}  // namespace sgdr_fused
