// The update rule of Adamax: Adam by the infinity norm of past gradients.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Kingma & Ba (2015), algorithm 2, as torch.optim.Adamax computes it. States: exp_avg, exp_inf.
struct Adamax : Defaults {
  static constexpr const char* kName = "adamax";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kEps, kMaximize };

  template <class T>
  struct ScalarsIn {
    T step_size, weight_decay, weight1, beta1, beta2, eps;
    bool maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const double beta1 = hypers[kBeta1];
    Scalars s;
    s.step_size = hypers[kLr] / (1.0 - pow(beta1, stats.steps + 1.0));
    s.weight_decay = hypers[kWeightDecay];
    s.weight1 = 1.0 - beta1;
    s.beta1 = beta1;
    s.beta2 = hypers[kBeta2];
    s.eps = constants[kEps];
    s.maximize = constants[kMaximize] != 0.0;
    return s;
  }

  template <class T, int kStates>
  struct Rule {
    ScalarsIn<T> s;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : s(rounded<ScalarsIn, T>(scalars)) {}

    SGDR_HOST_DEVICE bool usual() const { return !s.maximize && s.weight1 < T(0.5); }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& exp_avg = states[0];
      T& exp_inf = states[1];
      g = descent(g, p, s.weight_decay, s.maximize);
      exp_avg = interpolate(exp_avg, g, s.weight1, s.beta1);
      exp_inf = larger(s.beta2 * exp_inf, abs_of(g) + s.eps);
      p = p - s.step_size * (exp_avg / exp_inf);
    }
  };
};

}  // namespace sgdr_fused
