// The update rule of LAMB: Adam whose rate follows the norms of each parameter.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// You et al. (2020), algorithm 2 with the identity for phi: Adam with decoupled decay, where
// each parameter has a rate of its own that depends on its norm and that of its update. States:
// exp_avg, exp_avg_sq.
struct Lamb : Defaults {
  static constexpr const char* kName = "lamb";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  static constexpr int kMeasuredStates = 2;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kEps, kMaximize, kAdapts };

  template <class T>
  struct ScalarsIn {
    T step_size, weight_decay, weight1, beta1, weight2, beta2;
    T unbias1, bias_correction2_sqrt, eps;
    bool maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static bool measures(const double* constants) {
    return constants[kAdapts] != 0.0;
  }

  SGDR_HOST_DEVICE static double ratio(const double* constants, const Squares& squares) {
    const double param = sqrt(squares.param), update = sqrt(squares.direction);
    return !measures(constants) || param == 0.0 || update == 0.0 ? 1.0 : param / update;
  }

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const double beta1 = hypers[kBeta1], beta2 = hypers[kBeta2];
    Scalars s;
    s.step_size = hypers[kLr] * ratio(constants, stats.squares);
    s.weight_decay = hypers[kWeightDecay];
    s.weight1 = 1.0 - beta1;
    s.beta1 = beta1;
    s.weight2 = 1.0 - beta2;
    s.beta2 = beta2;
    s.unbias1 = 1.0 / (1.0 - pow(beta1, stats.steps + 1.0));
    s.bias_correction2_sqrt = sqrt(1.0 - pow(beta2, stats.steps + 1.0));
    s.eps = constants[kEps];
    s.maximize = constants[kMaximize] != 0.0;
    return s;
  }

  template <class T, int kStates>
  struct Rule {
    ScalarsIn<T> s;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : s(rounded<ScalarsIn, T>(scalars)) {}

    SGDR_HOST_DEVICE bool usual() const { return !s.maximize && s.weight1 < T(0.5); }

    // What the parameter moves along. Brings both moments up to date.
    SGDR_HOST_DEVICE T update(T p, T g, T& exp_avg, T& exp_avg_sq) const {
      g = where(s.maximize, -g, g);
      exp_avg = interpolate(exp_avg, g, s.weight1, s.beta1);
      exp_avg_sq = average_square(exp_avg_sq, g, s.beta2, s.weight2);
      const T denominator = sqrt_of(exp_avg_sq) / s.bias_correction2_sqrt + s.eps;
      return descent(s.unbias1 * exp_avg / denominator, p, s.weight_decay, false);
    }

    SGDR_HOST_DEVICE T direction(T p, T g, const T* states) const {
      T exp_avg = states[0], exp_avg_sq = states[1];
      return update(p, g, exp_avg, exp_avg_sq);
    }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      p = p - s.step_size * update(p, g, states[0], states[1]);
    }
  };
};

}  // namespace sgdr_fused
