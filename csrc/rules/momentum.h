// The update rules along a momentum buffer.
#pragma once

#include "rules/base.h"

namespace sgdr_fused {

// torch.optim.SGD. State: momentum_buffer, where momentum is in use. The rate stands outside of the
// buffer or, in the classical form, inside (Sutskever et al., 2013): the other factor is 1.
struct Sgd : Defaults {
  static constexpr const char* kName = "sgd";
  static constexpr int kMinStates = 0, kMaxStates = 1;
  enum Hyper { kLr, kMomentum, kWeightDecay };
  enum Constant { kDampening, kNesterov, kMaximize, kClassical };

  struct Scalars {
    double lr_inside, lr_outside, momentum, one_minus_dampening, weight_decay;
    bool first, nesterov, maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const bool classical = constants[kClassical] != 0.0;
    return {classical ? hypers[kLr] : 1.0, classical ? 1.0 : hypers[kLr], hypers[kMomentum],
            1.0 - constants[kDampening],   hypers[kWeightDecay],          stats.steps == 0.0,
            constants[kNesterov] != 0.0,   constants[kMaximize] != 0.0};
  }

  // One without momentum leaves the buffer alone, so the next one may still be the first.
  SGDR_HOST_DEVICE static bool counts(const double* hypers) { return hypers[kMomentum] != 0.0; }

  template <class T, int kStates>
  struct Rule {
    T lr_inside, lr_outside, momentum, one_minus_dampening, weight_decay;
    bool first, nesterov, maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : lr_inside(static_cast<T>(s.lr_inside)),
          lr_outside(static_cast<T>(s.lr_outside)),
          momentum(static_cast<T>(s.momentum)),
          one_minus_dampening(static_cast<T>(s.one_minus_dampening)),
          weight_decay(static_cast<T>(s.weight_decay)),
          first(s.first),
          nesterov(s.nesterov),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      g = lr_inside * descent(g, p, weight_decay, maximize);
      if constexpr (kStates == 1) {
        const T buffer = first ? g : momentum * states[0] + one_minus_dampening * g;
        const T direction = nesterov ? g + momentum * buffer : buffer;
        // Where a tensor or a schedule gives 0, as where the number is 0: no buffer, no dampening.
        states[0] = momentum != 0 ? buffer : states[0];
        g = momentum != 0 ? direction : g;
      }
      p = p - lr_outside * g;
    }
  };
};

// You, Gitman & Ginsburg (2017), algorithm 1: Sgd with a rate of each parameter's own, by its norm
// and its gradient's.
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
    SGDR_HOST_DEVICE explicit Rule(const Scalars& s) : Sgd::Rule<T, kStates>(s) {}
    SGDR_HOST_DEVICE T direction(T, T g, const T*) const { return g; }
  };
};

}  // namespace sgdr_fused
