// The update rule of NAdam: Adam with Nesterov momentum.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Dozat (2016), as torch.optim.NAdam computes it. States: exp_avg, exp_avg_sq. The
// product that a step multiplies by factor() is that of the momenta so far.
struct NAdam : Defaults {
  static constexpr const char* kName = "nadam";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kMomentumDecay, kEps, kMaximize, kDecoupledWeightDecay };

  template <class T>
  struct ScalarsIn {
    T grad_size, average_size, decay, weight_decay, weight1, beta1, weight2, beta2;
    T bias_correction2_sqrt, eps;
    bool maximize;
  };
  using Scalars = ScalarsIn<double>;

  // The momentum at step `number`, which rises to beta1.
  SGDR_HOST_DEVICE static double factor(const double* hypers, const double* constants,
                                        double number) {
    return hypers[kBeta1] * (1.0 - 0.5 * pow(0.96, number * constants[kMomentumDecay]));
  }

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const double lr = hypers[kLr], beta1 = hypers[kBeta1], beta2 = hypers[kBeta2];
    const double weight_decay = hypers[kWeightDecay];
    const bool decoupled = constants[kDecoupledWeightDecay] != 0.0;
    const double number = stats.steps + 1.0;
    const double mu = factor(hypers, constants, number);
    const double next_mu = factor(hypers, constants, number + 1.0);
    const double product = stats.product * mu;
    Scalars s;
    s.grad_size = lr * (1.0 - mu) / (1.0 - product);
    s.average_size = lr * next_mu / (1.0 - product * next_mu);
    s.decay = decoupled ? 1.0 - lr * weight_decay : 1.0;
    s.weight_decay = decoupled ? 0.0 : weight_decay;
    s.weight1 = 1.0 - beta1;
    s.beta1 = beta1;
    s.weight2 = 1.0 - beta2;
    s.beta2 = beta2;
    s.bias_correction2_sqrt = sqrt(1.0 - pow(beta2, number));
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
      const T denominator = sqrt_of(exp_avg_sq) / s.bias_correction2_sqrt + s.eps;
      p = p - (s.grad_size * g + s.average_size * exp_avg) / denominator;
    }
  };
};

}  // namespace sgdr_fused
