// The list of all algorithms. Each is a struct in a file of its own in rules/, the only place for
// update math.
//
// An algorithm has
//   kName                    what its Python class calls it
//   kMinStates, kMaxStates   how many state tensors a parameter may have
//   ScalarsIn<T>, Scalars    what a step needs per parameter, in T and in double
//   scalars()                computes them, once for a parameter
//   Rule<T, kStates>         the update of one element, in T: called with the parameter, its
//                            gradient (unscaled) and its states
//   Rule::usual()            whether each condition of where() in the update is as nearly always:
//                            for that case, the CPU has a loop without them
// and, where what Defaults has does not fit,
//   counts()                 whether a step with these values is one that ParamStats::steps counts
//   factor()                 by what such a step, given its number, multiplies ParamStats::product
//   kMeasuredStates          where each parameter has a rate of its own: how many states
//                            Rule::direction() takes, which ParamStats::squares measures; else -1
//   measures()               whether a group with these constants has such rates
// hypers[] are the values of this step (number, tensor or schedule), constants[] those that only a
// new plan changes; the enums name the entries, in the order in which the Python class lists them.
#pragma once

#include "rules/adadelta.h"
#include "rules/adagrad.h"
#include "rules/adam.h"
#include "rules/adamax.h"
#include "rules/base.h"
#include "rules/lamb.h"
#include "rules/lars.h"
#include "rules/lion.h"
#include "rules/nadam.h"
#include "rules/radam.h"
#include "rules/rmsprop.h"
#include "rules/sgd.h"

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
    AlgorithmList<Sgd, Lars, Adam, NAdam, RAdam, Adamax, Lamb, Lion, Adagrad, RMSprop, Adadelta>;

}  // namespace sgdr_fused
