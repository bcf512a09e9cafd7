// The update rule of LARS: SGD whose rate follows the norms of each parameter.
#pragma once

#include "rules/sgd.h"

namespace sgdr_fused {

// You, Gitman & Ginsburg (2017), algorithm 1: Sgd, where each parameter has a rate of its own that
// depends on its norm and that of its gradient.
struct Lars : Defaults {
  static constexpr const char* kName = "lars";
  static constexpr int kMinStates = 0, kMaxStates = 1;
  static constexpr int kMeasuredStates = 0;
  enum Hyper { kLr, kMomentum, kWeightDecay };
  // The first four are Sgd's.
  enum Constant { kTrustCoefficient = Sgd::kClassical + 1, kEps, kAdapts };
  using Scalars = Sgd::Scalars;

  SGDR_HOST_DEVICE static bool measures(const double* constants) {
    return constants[kAdapts] != 0.0;
  }

  SGDR_HOST_DEVICE static double ratio(const double* hypers, const double* constants,
                                       const Squares& squares) {
    const double param = sqrt(squares.param), gradient = sqrt(squares.direction);
    if (!measures(constants) || param == 0.0 || gradient == 0.0) return 1.0;
    return constants[kTrustCoefficient] * param /
           (gradient + hypers[kWeightDecay] * param + constants[kEps]);
  }

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    Scalars scalars = Sgd::scalars(hypers, constants, stats);
    scalars.lr_inside *= ratio(hypers, constants, stats.squares);
    return scalars;
  }

  SGDR_HOST_DEVICE static bool counts(const double* hypers) { return Sgd::counts(hypers); }

  template <class T, int kStates>
  struct Rule : Sgd::Rule<T, kStates> {
    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : Sgd::Rule<T, kStates>(scalars) {}
    SGDR_HOST_DEVICE T direction(T, T g, const T*) const { return g; }
  };
};

}  // namespace sgdr_fused
