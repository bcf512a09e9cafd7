// The update rule of RAdam.
#pragma once

#include "rules/base.h"
#include "rules/rounded.h"

namespace sgdr_fused {

// Liu et al. (2020), algorithm 2, as torch.optim.RAdam computes it (eps is added to the root of the
// second moment before its bias is corrected). States: exp_avg, exp_avg_sq.
struct RAdam : Defaults {
  static constexpr const char* kName = "radam";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kEps, kMaximize, kDecoupledWeightDecay };

  template <class T>
  struct ScalarsIn {
    T step_size, decay, weight_decay, weight1, beta1, weight2, beta2, eps;
    bool maximize, rectified;
  };
  using Scalars = ScalarsIn<double>;

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const double lr = hypers[kLr], beta1 = hypers[kBeta1], beta2 = hypers[kBeta2];
    const double weight_decay = hypers[kWeightDecay], number = stats.steps + 1.0;
    const bool decoupled = constants[kDecoupledWeightDecay] != 0.0;
    const double power2 = pow(beta2, number), bias_correction2 = 1.0 - power2;
    // The length of the simple moving average that the second moment is like, and its limit.
    const double limit = 2.0 / (1.0 - beta2) - 1.0;
    const double length = limit - 2.0 * number * power2 / bias_correction2;
    Scalars s;
    s.rectified = length > 5.0;  // else the second moment is of too few gradients to divide by
    s.step_size = lr / (1.0 - pow(beta1, number));
    if (s.rectified) {
      const double variances =
          (length - 4.0) * (length - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * length);
      s.step_size *= sqrt(variances) * sqrt(bias_correction2);
    }
    s.decay = decoupled ? 1.0 - lr * weight_decay : 1.0;
    s.weight_decay = decoupled ? 0.0 : weight_decay;
    s.weight1 = 1.0 - beta1;
    s.beta1 = beta1;
    s.weight2 = 1.0 - beta2;
    s.beta2 = beta2;
    s.eps = constants[kEps];
    s.maximize = constants[kMaximize] != 0.0;
    return s;
  }

  template <class T, int kStates>
  struct Rule {
    ScalarsIn<T> s;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& scalars) : s(rounded<ScalarsIn, T>(scalars)) {}

    SGDR_HOST_DEVICE bool usual() const { return !s.maximize && s.rectified && s.weight1 < T(0.5); }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& exp_avg = states[0];
      T& exp_avg_sq = states[1];
      p = p * s.decay;
      g = descent(g, p, s.weight_decay, s.maximize);
      exp_avg = interpolate(exp_avg, g, s.weight1, s.beta1);
      exp_avg_sq = average_square(exp_avg_sq, g, s.beta2, s.weight2);
      const T denominator = where(s.rectified, sqrt_of(exp_avg_sq) + s.eps, T(1));
      p = p - s.step_size * (exp_avg / denominator);
    }
  };
};

}  // namespace sgdr_fused
