// The update rules: one struct per algorithm. The only place for update math.
//
// An algorithm has
//   kName                    what its Python class calls it
//   kMinStates, kMaxStates   how many state tensors a parameter may have
//   Scalars, scalars()       what a step needs per parameter, computed once, in double
//   counts()                 whether a step with these values is one that `steps` counts
//   Rule<T, kStates>         the update of one element, in T: called with the parameter, its
//                            gradient (unscaled) and its states
// hypers[] are the values of this step (number, tensor or schedule), constants[] those that only a
// new plan changes; the enums name the entries, in the order in which the Python class lists them.
// steps is how many updates that count the parameter has behind it.
#pragma once

#include <cmath>

#include "host_device.h"

namespace sgdr_fused {

// From start to end by weight, from the nearer one, so that both ends are exact as in torch's lerp.
template <class T>
SGDR_HOST_DEVICE T interpolate(T start, T end, T weight, T one_minus_weight) {
  const T change = end - start;
  return weight < T(0.5) ? start + weight * change : end - change * one_minus_weight;
}

// torch.optim.SGD. State: momentum_buffer, where momentum is in use.
struct Sgd {
  static constexpr const char* kName = "sgd";
  static constexpr int kMinStates = 0, kMaxStates = 1;
  enum Hyper { kLr, kMomentum, kWeightDecay };
  enum Constant { kDampening, kNesterov, kMaximize };

  struct Scalars {
    double lr, momentum, one_minus_dampening, weight_decay;
    bool first, nesterov, maximize;
  };

  SGDR_HOST_DEVICE static Scalars scalars(const double* hypers, const double* constants,
                                          double steps) {
    return {hypers[kLr],
            hypers[kMomentum],
            1.0 - constants[kDampening],
            hypers[kWeightDecay],
            steps == 0.0,
            constants[kNesterov] != 0.0,
            constants[kMaximize] != 0.0};
  }

  // One without momentum leaves the buffer alone, so the next one may still be the first.
  SGDR_HOST_DEVICE static bool counts(const double* hypers) { return hypers[kMomentum] != 0.0; }

  template <class T, int kStates>
  struct Rule {
    T lr, momentum, one_minus_dampening, weight_decay;
    bool first, nesterov, maximize;

    SGDR_HOST_DEVICE explicit Rule(const Scalars& s)
        : lr(static_cast<T>(s.lr)),
          momentum(static_cast<T>(s.momentum)),
          one_minus_dampening(static_cast<T>(s.one_minus_dampening)),
          weight_decay(static_cast<T>(s.weight_decay)),
          first(s.first),
          nesterov(s.nesterov),
          maximize(s.maximize) {}

    SGDR_HOST_DEVICE void operator()(T& p, T g, T* states) const {
      g = maximize ? -g : g;
      // A product with 0 would turn an infinite parameter into a NaN.
      g = weight_decay != 0 ? g + weight_decay * p : g;
      if constexpr (kStates == 1) {
        const T buffer = first ? g : momentum * states[0] + one_minus_dampening * g;
        const T direction = nesterov ? g + momentum * buffer : buffer;
        // Where a tensor or a schedule gives 0, as where the number is 0: no buffer, no dampening.
        states[0] = momentum != 0 ? buffer : states[0];
        g = momentum != 0 ? direction : g;
      }
      p = p - lr * g;
    }
  };
};

// Kingma & Ba (2015), algorithm 1, as torch.optim.Adam and AdamW compute it (bias correction, eps
// outside the root). States: exp_avg, exp_avg_sq and, for AMSGrad, max_exp_avg_sq.
struct Adam {
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
                                          double steps) {
    const double lr = hypers[kLr], beta1 = hypers[kBeta1], beta2 = hypers[kBeta2];
    const double weight_decay = hypers[kWeightDecay];
    const bool decoupled = constants[kDecoupledWeightDecay] != 0.0;
    return {lr / (1.0 - pow(beta1, steps + 1.0)),
            decoupled ? 1.0 - lr * weight_decay : 1.0,
            decoupled ? 0.0 : weight_decay,
            1.0 - beta1,
            beta1,
            1.0 - beta2,
            beta2,
            sqrt(1.0 - pow(beta2, steps + 1.0)),
            constants[kEps],
            constants[kMaximize] != 0.0};
  }

  SGDR_HOST_DEVICE static bool counts(const double*) { return true; }

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
      g = maximize ? -g : g;
      p = p * decay;
      g = weight_decay != 0 ? g + weight_decay * p : g;
      exp_avg = interpolate(exp_avg, g, weight1, beta1);
      exp_avg_sq = beta2 * exp_avg_sq + weight2 * g * g;
      T second_moment = exp_avg_sq;
      if constexpr (kStates == 3) {
        T& max_exp_avg_sq = states[2];
        const bool larger = exp_avg_sq > max_exp_avg_sq || exp_avg_sq != exp_avg_sq;  // or NaN
        max_exp_avg_sq = larger ? exp_avg_sq : max_exp_avg_sq;
        second_moment = max_exp_avg_sq;
      }
      const T denominator = sqrt_of(second_moment) / bias_correction2_sqrt + eps;
      p = p - step_size * (exp_avg / denominator);
    }

    // Correctly rounded on both sides; the overloads of ::sqrt differ between compilers.
    SGDR_HOST_DEVICE static float sqrt_of(float x) { return sqrtf(x); }
    SGDR_HOST_DEVICE static double sqrt_of(double x) { return sqrt(x); }
  };
};

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
using AllAlgorithms = AlgorithmList<Sgd, Adam>;

}  // namespace sgdr_fused
