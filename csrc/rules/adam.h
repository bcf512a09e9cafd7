// The update rule of Adam, AdamW and AMSGrad.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Kingma & Ba (2015), algorithm 1, as torch.optim.Adam and AdamW compute it (bias correction, eps
// outside the root). States: exp_avg, exp_avg_sq and, for AMSGrad, max_exp_avg_sq.
struct Adam : Defaults {
  static constexpr const char* kName = "adam";
  static constexpr int kMinStates = 2, kMaxStates = 3;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kEps, kMaximize, kDecoupledWeightDecay };

  template <class T>
  struct ScalarsIn {
    T step_size, decay, weight_decay, weight1, beta1, weight2, beta2;
    T bias_correction2_sqrt, eps;
    bool maximize;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const double lr = hypers[kLr], beta1 = hypers[kBeta1], beta2 = hypers[kBeta2];
    const double weight_decay = hypers[kWeightDecay];
    const bool decoupled = constants[kDecoupledWeightDecay] != 0.0;
    Scalars s;
    s.step_size = lr / (1.0 - pow(beta1, stats.steps + 1.0));
    s.decay = decoupled ? 1.0 - lr * weight_decay : 1.0;
    s.weight_decay = decoupled ? 0.0 : weight_decay;
    s.weight1 = 1.0 - beta1;
    s.beta1 = beta1;
    s.weight2 = 1.0 - beta2;
    s.beta2 = beta2;
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

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& exp_avg = states[0];
      T& exp_avg_sq = states[1];
      p = p * s.decay;
      g = descent(g, p, s.weight_decay, s.maximize);
      exp_avg = interpolate(exp_avg, g, s.weight1, s.beta1);
      exp_avg_sq = average_square(exp_avg_sq, g, s.beta2, s.weight2);
      T second_moment = exp_avg_sq;
      if constexpr (kStates == 3) {
        T& max_exp_avg_sq = states[2];
        max_exp_avg_sq = larger(exp_avg_sq, max_exp_avg_sq);
        second_moment = max_exp_avg_sq;
      }
      const T denominator = sqrt_of(second_moment) / s.bias_correction2_sqrt + s.eps;
      p = p - s.step_size * (exp_avg / denominator);
    }
  };
};

}  // namespace sgdr_fused
