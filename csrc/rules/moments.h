// The update rules along the first moment of the gradients, over the size of past ones.
#pragma once

#include "rules/base.h"

namespace sgdr_fused {

// Kingma & Ba (2015), algorithm 1, as torch.optim.Adam and AdamW compute it (bias correction, eps
// outside the root). States: exp_avg, exp_avg_sq and, for AMSGrad, max_exp_avg_sq.
struct Adam : Defaults {
  static constexpr const char* kName = "adam";
  static constexpr int kMinStates = 2, kMaxStates = 3;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kEps, kMaximize, kDecoupledWeightDecay };

  struct Scalars {
    double step_size, decay, weight_decay, weight1, beta1, weight2, beta2;
    double bias_correction2_sqrt, eps;
    bool maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const double lr = hypers[kLr], beta1 = hypers[kBeta1], beta2 = hypers[kBeta2];
    const double weight_decay = hypers[kWeightDecay];
    const bool decoupled = constants[kDecoupledWeightDecay] != 0.0;
    return {lr / (1.0 - pow(beta1, stats.steps + 1.0)),
            decoupled ? 1.0 - lr * weight_decay : 1.0,
            decoupled ? 0.0 : weight_decay,
            1.0 - beta1,
            beta1,
            1.0 - beta2,
            beta2,
            sqrt(1.0 - pow(beta2, stats.steps + 1.0)),
            constants[kEps],
            constants[kMaximize] != 0.0};
  }

  template <class T, int kStates>
  struct Rule {
    T step_size, decay, weight_decay, weight1, beta1, weight2, beta2, bias_correction2_sqrt, eps;
    bool maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : step_size(static_cast<T>(s.step_size)),
          decay(static_cast<T>(s.decay)),
          weight_decay(static_cast<T>(s.weight_decay)),
          weight1(static_cast<T>(s.weight1)),
          beta1(static_cast<T>(s.beta1)),
          weight2(static_cast<T>(s.weight2)),
          beta2(static_cast<T>(s.beta2)),
          bias_correction2_sqrt(static_cast<T>(s.bias_correction2_sqrt)),
          eps(static_cast<T>(s.eps)),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& exp_avg = states[0];
      T& exp_avg_sq = states[1];
      p = p * decay;
      g = descent(g, p, weight_decay, maximize);
      exp_avg = interpolate(exp_avg, g, weight1, beta1);
      exp_avg_sq = average_square(exp_avg_sq, g, beta2, weight2);
      T second_moment = exp_avg_sq;
      if constexpr (kStates == 3) {
        T& max_exp_avg_sq = states[2];
        max_exp_avg_sq = larger(exp_avg_sq, max_exp_avg_sq);
        second_moment = max_exp_avg_sq;
      }
      const T denominator = sqrt_of(second_moment) / bias_correction2_sqrt + eps;
      p = p - step_size * (exp_avg / denominator);
    }
  };
};

// Kingma & Ba (2015), algorithm 2, as torch.optim.Adamax computes it. States: exp_avg, exp_inf.
struct Adamax : Defaults {
  static constexpr const char* kName = "adamax";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kEps, kMaximize };

  struct Scalars {
    double step_size, weight_decay, weight1, beta1, beta2, eps;
    bool maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          const ParamStats& stats) {
    const double beta1 = hypers[kBeta1];
    return {hypers[kLr] / (1.0 - pow(beta1, stats.steps + 1.0)),
            hypers[kWeightDecay],
            1.0 - beta1,
            beta1,
            hypers[kBeta2],
            constants[kEps],
            constants[kMaximize] != 0.0};
  }

  template <class T, int kStates>
  struct Rule {
    T step_size, weight_decay, weight1, beta1, beta2, eps;
    bool maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : step_size(static_cast<T>(s.step_size)),
          weight_decay(static_cast<T>(s.weight_decay)),
          weight1(static_cast<T>(s.weight1)),
          beta1(static_cast<T>(s.beta1)),
          beta2(static_cast<T>(s.beta2)),
          eps(static_cast<T>(s.eps)),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& exp_avg = states[0];
      T& exp_inf = states[1];
      g = descent(g, p, weight_decay, maximize);
      exp_avg = interpolate(exp_avg, g, weight1, beta1);
      exp_inf = larger(beta2 * exp_inf, abs_of(g) + eps);
      p = p - step_size * (exp_avg / exp_inf);
    }
  };
};

// Dozat (2016), as torch.optim.NAdam computes it. States: exp_avg, exp_avg_sq. The factors of the
// product are the momenta so far.
struct NAdam : Defaults {
  static constexpr const char* kName = "nadam";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kMomentumDecay, kEps, kMaximize, kDecoupledWeightDecay };

  struct Scalars {
    double grad_size, average_size, decay, weight_decay, weight1, beta1, weight2, beta2;
    double bias_correction2_sqrt, eps;
    bool maximize;
  };

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
    return {lr * (1.0 - mu) / (1.0 - product),
            lr * next_mu / (1.0 - product * next_mu),
            decoupled ? 1.0 - lr * weight_decay : 1.0,
            decoupled ? 0.0 : weight_decay,
            1.0 - beta1,
            beta1,
            1.0 - beta2,
            beta2,
            sqrt(1.0 - pow(beta2, number)),
            constants[kEps],
            constants[kMaximize] != 0.0};
  }

  template <class T, int kStates>
  struct Rule {
    T grad_size, average_size, decay, weight_decay, weight1, beta1, weight2, beta2;
    T bias_correction2_sqrt, eps;
    bool maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : grad_size(static_cast<T>(s.grad_size)),
          average_size(static_cast<T>(s.average_size)),
          decay(static_cast<T>(s.decay)),
          weight_decay(static_cast<T>(s.weight_decay)),
          weight1(static_cast<T>(s.weight1)),
          beta1(static_cast<T>(s.beta1)),
          weight2(static_cast<T>(s.weight2)),
          beta2(static_cast<T>(s.beta2)),
          bias_correction2_sqrt(static_cast<T>(s.bias_correction2_sqrt)),
          eps(static_cast<T>(s.eps)),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      T& exp_avg = states[0];
      T& exp_avg_sq = states[1];
      p = p * decay;
      g = descent(g, p, weight_decay, maximize);
      exp_avg = interpolate(exp_avg, g, weight1, beta1);
      exp_avg_sq = average_square(exp_avg_sq, g, beta2, weight2);
      const T denominator = sqrt_of(exp_avg_sq) / bias_correction2_sqrt + eps;
      p = p - (grad_size * g + average_size * exp_avg) / denominator;
    }
  };
};

// You et al. (2020), algorithm 2 with the identity for phi: Adam with decoupled decay, and a rate
// of each parameter's own, by its norm and its update's. States: exp_avg, exp_avg_sq.
struct Lamb : Defaults {
  static constexpr const char* kName = "lamb";
  static constexpr int kMinStates = 2, kMaxStates = 2;
  static constexpr int kMeasuredStates = 2;
  enum Hyper { kLr, kBeta1, kWeightDecay, kBeta2 };
  enum Constant { kEps, kMaximize, kAdapts };

  struct Scalars {
    double step_size, weight_decay, weight1, beta1, weight2, beta2;
    double unbias1, bias_correction2_sqrt, eps;
    bool maximize;
  };

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
    return {hypers[kLr] * ratio(constants, stats.squares),
            hypers[kWeightDecay],
            1.0 - beta1,
            beta1,
            1.0 - beta2,
            beta2,
            1.0 / (1.0 - pow(beta1, stats.steps + 1.0)),
            sqrt(1.0 - pow(beta2, stats.steps + 1.0)),
            constants[kEps],
            constants[kMaximize] != 0.0};
  }

  template <class T, int kStates>
  struct Rule {
    T step_size, weight_decay, weight1, beta1, weight2, beta2, unbias1, bias_correction2_sqrt, eps;
    bool maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : step_size(static_cast<T>(s.step_size)),
          weight_decay(static_cast<T>(s.weight_decay)),
          weight1(static_cast<T>(s.weight1)),
          beta1(static_cast<T>(s.beta1)),
          weight2(static_cast<T>(s.weight2)),
          beta2(static_cast<T>(s.beta2)),
          unbias1(static_cast<T>(s.unbias1)),
          bias_correction2_sqrt(static_cast<T>(s.bias_correction2_sqrt)),
          eps(static_cast<T>(s.eps)),
          maximize(s.maximize) {}

    // Of which the moments are brought up to date.
    SGDR_HOST_DEVICE T update(T p, T g, T& exp_avg, T& exp_avg_sq) const {
      g = maximize ? -g : g;
      exp_avg = interpolate(exp_avg, g, weight1, beta1);
      exp_avg_sq = average_square(exp_avg_sq, g, beta2, weight2);
      const T denominator = sqrt_of(exp_avg_sq) / bias_correction2_sqrt + eps;
      return descent(unbias1 * exp_avg / denominator, p, weight_decay, false);
    }

    SGDR_HOST_DEVICE T direction(T p, T g, const T* states) const {
      T exp_avg = states[0], exp_avg_sq = states[1];
      return update(p, g, exp_avg, exp_avg_sq);
    }

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      p = p - step_size * update(p, g, states[0], states[1]);
    }
  };
};

}  // namespace sgdr_fused
